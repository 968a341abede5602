from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from hypergpu_fl.bench.in_process import InProcessGrid
from hypergpu_fl.bench.race import Course, Point, WatchedArrivals
from hypergpu_fl.errors import RunFailed
from strategies.arrivals import Passage

echo = ClientApp()


@echo.train()
def answer(message: Message, context: Context) -> Message:
    """Reply with nothing."""
    return Message(RecordDict(), reply_to=message)


class OneSecond:
    """Links on which everything takes a second."""

    def passage(self, node_id: int, *, sent_s: float, bytes_down: int, bytes_up: int, samples: float) -> Passage:
        """See ``VirtualLinks``."""
        return Passage(0.0, 1.0, 0.0, 0.0)


def course(accuracies: Iterable[float]) -> Course:
    return Course([Point(float(i), accuracy, accuracy, i, 0, 0) for i, accuracy in enumerate(accuracies)])


def test_a_target_counts_from_the_first_of_three_rounds_that_hold_it() -> None:
    run = course([0.1, 0.9, 0.5, 0.9, 0.9, 0.91, 0.2])
    assert run.time_to(0.9, 1) == 1.0
    assert run.time_to(0.9, 3) == 3.0
    assert run.time_to(0.91, 3) is None
    assert course([]).time_to(0.0, 1) is None


def test_final_accuracy_is_the_mean_over_the_last_tenth_of_the_rounds() -> None:
    run = course([0.0] * 18 + [0.8, 0.9])
    assert run.rounds == 19
    assert run.final_accuracy == run.slow_accuracy == pytest.approx(0.85)
    assert course([0.5]).final_accuracy == 0.5


def test_more_nodes_at_work_than_allowed_fail_the_run(tmp_path: Path) -> None:
    grid = InProcessGrid(echo, 5, {}, state_dir=tmp_path)
    arrivals = WatchedArrivals(grid, OneSecond(), most_at_work=3)
    assert len(list(arrivals.send_and_receive([Message(RecordDict(), node, "train") for node in (1, 2, 3)]))) == 3
    with pytest.raises(RunFailed, match="4 nodes at work, 3 are allowed"):
        list(arrivals.send_and_receive([Message(RecordDict(), node, "train") for node in (1, 2, 3, 4)]))
