"""A run of which nothing counted names the commonest reason, and a remedy that is whoever reads it to take."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from hypergpu_fl.server.nothing_counted import failure_of


def refused(*refusals: str) -> list[Any]:
    return [{"verdict": "refused", "refusal": refusal} for refusal in refusals]


@pytest.mark.parametrize(
    ("rows", "cause", "remedy"),
    [
        (refused("error reply: no reply within 60 s"), "no reply within 60 s", "raise network.deadline_s"),
        (refused("error reply: values to encode hold NaN, Inf or more"), "hold NaN", "lower training.learning_rate"),
        (refused("error reply: ValueError: own"), "ValueError: own", "mend what the nodes say there"),
        (
            refused("left", "non-finite: loss is nan", "non-finite: loss is inf"),
            "2 of 3 replies",
            "training.learning_rate",
        ),
        (refused("something new"), "something new", "see `hypergpu nodes`"),
        ([{"verdict": "working", "refusal": ""}] * 4, "none of 4 orders", "run more rounds, raise network.deadline_s"),
        ([{"verdict": "left", "refusal": "left: gone"}], "left: gone", "see in the nodes' own logs"),
        ([], "none of 0 orders", "run more rounds"),
    ],
)
def test_the_commonest_reason_and_its_remedy_are_named(rows: list[Any], cause: str, remedy: str) -> None:
    failure = failure_of(rows)
    assert failure is not None and cause in failure.cause and remedy in failure.remedy


@pytest.mark.parametrize("verdict", ["counted", "late"])
def test_a_run_in_which_one_reply_counted_did_not_fail(verdict: str) -> None:
    assert failure_of([*refused("left", "left"), {"verdict": verdict, "refusal": ""}]) is None


def rounds(*entries: tuple[bool, int, float | None]) -> list[dict[str, Any]]:
    return [{"kept": kept, "arrived": arrived, "loss": loss} for kept, arrived, loss in entries]


COUNTED = [{"verdict": "counted", "refusal": ""}]


@pytest.mark.parametrize(
    ("history", "reason"),
    [
        (rounds((False, 3, None), (False, 2, 1e9), (False, 3, math.nan)), "in 3 of 3 rounds .* was not finite"),
        (rounds((False, 3, 1e9), (False, 0, 2.3)), "in 1 of 2 rounds .* far above the untrained model's"),
    ],
)
def test_a_run_that_kept_no_round_s_model_failed_for_the_commonest_reason(history: list[Any], reason: str) -> None:
    failure = failure_of(COUNTED, history)
    assert failure is not None and re.search(reason, failure.cause) and "learning_rate" in failure.remedy


@pytest.mark.parametrize("history", [[], rounds((False, 3, None), (True, 3, 2.0)), [{"arrived": 1, "loss": None}]])
def test_a_run_that_kept_one_model_did_not_fail(history: list[Any]) -> None:
    assert failure_of(COUNTED, history) is None
