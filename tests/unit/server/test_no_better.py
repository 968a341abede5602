"""What the end of a run says of its last model."""

from __future__ import annotations

import math
from typing import Any

import pytest

from hypergpu_fl.server.no_better import warning_of
from hypergpu_fl.server.report import _left


def history(*losses: float | None) -> list[dict[str, Any]]:
    return [{"round": round, "loss": loss} for round, loss in enumerate(losses, 1)]


@pytest.mark.parametrize("loss", [None, math.nan, math.inf])
def test_a_last_loss_that_is_not_finite_is_told_as_training_that_diverged(loss: float | None) -> None:
    for untrained in (None, 2.0):
        warning = warning_of(history(3.0, loss), untrained)
        assert warning and "training diverged" in warning.cause and "learning_rate" in warning.remedy


def test_a_last_model_no_better_than_the_untrained_one_is_told_with_the_best_round_if_that_was_better() -> None:
    warning = warning_of(history(9e4, 1e5), 8.5e4)
    assert warning and "loss 1e+05, untrained 8.5e+04" in warning.cause and "round" not in warning.remedy
    warning = warning_of(history(9.0, 0.5, 30.0), 8.0)
    assert warning and warning.remedy.endswith("round 2 had the least loss, 0.5")


def test_a_model_that_learned_anything_gives_no_warning() -> None:
    assert warning_of(history(9.0, 7.9), 8.0) is None
    assert warning_of(history(9.0), None) is None
    assert warning_of([], 8.0) is None
    assert warning_of(history(-3.0), -2.0) is None


def test_the_time_left_is_the_mean_of_all_rounds_but_the_first_and_left_out_where_it_is_short() -> None:
    assert _left([100.0], 50) == ""
    assert _left([100.0, 102.0, 106.0], 10) == "  30 s left"
    assert _left([100.0, 160.0], 10) == "  10 min left"
    assert _left([100.0, 101.0], 4) == _left([100.0, 200.0], 0) == ""
