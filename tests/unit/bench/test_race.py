from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from hypergpu_fl.bench.in_process import InProcessGrid
from hypergpu_fl.bench.race import Course, Finished, Limits, Point, Recorder, WatchedArrivals
from hypergpu_fl.errors import RunFailed
from strategies.arrivals import Passage
from strategies.outcome import Accepted, RoundOutcome

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


@pytest.mark.parametrize(
    ("limits", "rounds"),
    [(Limits(100.0, 8, 20.0), 4), (Limits(100.0, 8, 120.0), 6), (Limits(2.5, 8, 120.0), 3)],
    ids=["updates", "samples", "horizon"],
)
def test_a_run_ends_when_it_has_had_its_updates_and_its_samples_or_at_the_horizon(limits: Limits, rounds: int) -> None:
    """Two updates of ten samples each in every round of a second."""
    recorder = Recorder(lambda arrays: (0.5, 0.5), limits, byte_scale=1.0)
    with pytest.raises(Finished):
        for round in range(1, 100):
            recorder.closed(outcome(round, samples=10))
            recorder.evaluate(round, ArrayRecord())
    assert round == rounds


def outcome(round: int, samples: int) -> RoundOutcome:
    update = Accepted(
        row=0,
        node="node-0",
        node_id=1,
        round=round,
        base=0,
        staleness=0,
        steps=1,
        examples=1,
        bytes_up=1,
        weight=0.5,
        metrics={"samples": float(samples)},
    )
    return RoundOutcome(
        round=round,
        started_s=round - 1.0,
        ended_s=float(round),
        selected=[0],
        accepted=[update, update],
        refused=[],
        late=0,
        bytes_down=1,
        bytes_up=1,
        base_hash=b"",
        model_hash=b"",
        average_P=np.zeros(0, dtype=np.float32),
        buffers={},
    )


def test_more_nodes_at_work_than_allowed_fail_the_run(tmp_path: Path) -> None:
    grid = InProcessGrid(echo, 5, {}, state_dir=tmp_path)
    arrivals = WatchedArrivals(grid, OneSecond(), most_at_work=3)
    assert len(list(arrivals.send_and_receive([Message(RecordDict(), node, "train") for node in (1, 2, 3)]))) == 3
    with pytest.raises(RunFailed, match="nodes at work: 4, allowed: 3"):
        list(arrivals.send_and_receive([Message(RecordDict(), node, "train") for node in (1, 2, 3, 4)]))
