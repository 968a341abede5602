"""Whatever hostile nodes send a real server as hellos and replies: its run completes, finite, and its books verify."""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzzed_run import Plan, play
from hostile_records import Move
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from loguru import logger

from hypergpu_fl.config.models import CODEC_LEVELS

QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
FEW, MANY = 6, 100_000  # runs in the normal suite, some 100 hostile messages each; messages in the slow one
NUMBER = st.integers(0, 2**16)
MOVES = st.builds(Move, NUMBER, NUMBER, NUMBER, NUMBER)


def plans(replies: int, hellos: int) -> st.SearchStrategy[Plan]:
    """Runs of so many hostile moves at least, under any settings that decide what a reply goes through."""
    return st.builds(
        Plan,
        st.lists(MOVES, min_size=replies, max_size=replies + 8),
        st.lists(MOVES, min_size=hellos, max_size=hellos + 4),
        mode=st.sampled_from(["sync", "async"]),
        policy=st.sampled_from(["network_aware", "random", "oort", "fedcs"]),
        aggregation=st.sampled_from(["mean", "mean", "median", "trimmed_mean", "krum", "norm_clipping"]),
        scoring=st.sampled_from(["aumann_shapley", "improvement", "weight", "leave_one_out", "shapley"]),
        optimizer=st.sampled_from(["fedavg", "fedavgm", "fedadam", "fedyogi"]),
        codec=st.sampled_from(["auto", *CODEC_LEVELS]),
        latency_ms=st.sampled_from([50.0, 3.6e6]),  # of rounds of seconds; of rounds longer than any exclusion
        keep_updates_mb=st.sampled_from([0.0, 1.0]),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where a run may lie; the thousands of refusals are not logged."""
    logger.disable("hypergpu_fl")
    logging.disable(logging.CRITICAL)
    yield tmp_path / "run"
    logging.disable(logging.NOTSET)
    logger.enable("hypergpu_fl")


def played(plan: Plan, folder: Path) -> int:
    """Hostile messages that the server was sent in a run."""
    try:
        return play(plan, folder).sent
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@hypothesis_settings(max_examples=FEW, suppress_health_check=QUIET)
@given(plan=plans(replies=10, hellos=30))
def test_a_run_completes_with_finite_state_and_books_that_verify_whatever_hostile_nodes_send(
    plan: Plan, folder: Path
) -> None:
    played(plan, folder)


@pytest.mark.slow
def test_so_it_is_with_a_hundred_thousand_hostile_messages(folder: Path) -> None:
    sent = Counter[str]()

    @hypothesis_settings(max_examples=MANY // 60, suppress_health_check=QUIET)
    @given(plan=plans(replies=10, hellos=30))
    def more(plan: Plan) -> None:
        if sent["messages"] < MANY:
            sent["messages"] += played(plan, folder)

    more()
    assert sent["messages"] >= MANY
