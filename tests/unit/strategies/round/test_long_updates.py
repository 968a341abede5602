"""An update that is longer than the other nodes' counts as an ordinary one of its direction, and weighs what it did."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from flwr.app import Message, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from strategy_grid import Links, NodeGrid, Trainer, reply_with
from strategy_runs import build, play

from strategies.arrivals.virtual import VirtualArrivals
from strategies.errors import Refused
from strategies.fleet.outliers import LARGEST_Z, ORDINARY_Z, robust_z
from strategies.round.histories import ENOUGH_NODES, NormHistory
from strategies.wire import UPDATE

ME = 99
norms = st.floats(1e-6, 1e6)


@given(st.lists(norms, min_size=ENOUGH_NODES, max_size=20), norms, st.integers(1, 100), st.integers(1, 100))
def test_what_counts_of_an_update_is_never_longer_than_ordinary_and_all_of_one_that_is(
    others: list[float], norm: float, steps: int, their_steps: int
) -> None:
    seen = NormHistory()
    for row, other in enumerate(others):
        seen.add(row, other, their_steps)
    logs = [math.log(other / math.sqrt(their_steps)) for other in others]
    z, _ = robust_z(math.log(norm / math.sqrt(steps)), logs)
    if z > LARGEST_Z:
        with pytest.raises(Refused):
            seen.length(ME, norm, steps, model_norm=1.0)
        return
    length = seen.length(ME, norm, steps, model_norm=1.0)
    assert (length == 1.0) if z <= ORDINARY_Z else (0.0 < length < 1.0)
    left, _ = robust_z(math.log(length * norm / math.sqrt(steps)), logs)
    assert left == pytest.approx(min(z, ORDINARY_Z), abs=1e-6)


class Longer(Trainer):
    """A node whose updates point away from its target, and are as much longer, after some rounds of honest ones."""

    def __call__(self, message: Message) -> RecordDict:
        reply = super().__call__(message)
        if UPDATE not in reply or len(self.orders) <= 4:
            return reply
        (array,) = reply.array_records[UPDATE].values()
        return reply_with(-3.0 * np.frombuffer(array.numpy().tobytes(), "<f4"))


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_long_update_moves_the_model_no_further_than_an_ordinary_one(mode: str) -> None:
    lengths, weights = played(mode, refuse_outliers=True)
    assert min(lengths[:4]) == pytest.approx(1.0) and 0.3 < max(lengths[4:]) < 0.9, "what is left of 3"
    assert weights == pytest.approx(played(mode, refuse_outliers=False)[1]), "its weight is paid, and stays"


def played(mode: str, **settings: Any) -> tuple[list[float], list[float]]:
    """Of a node's updates, the length that counted and the weight. The other nodes' updates count whole."""
    grid = NodeGrid({1000 + node: Longer(node) if node == 0 else Trainer(node) for node in range(7)})
    engine, diary = build(cohort=7, mode=mode, quota=1.0, deadline_s=100.0, averaging=False, **settings)
    play(engine, VirtualArrivals(grid, Links(lambda node, sent_s: 1.0)), 7)
    lengths, weights = [], []
    for outcome in diary.rounds:
        assert outcome.step is not None and len(outcome.accepted) == 7
        mean_steps = outcome.accepted[0].steps
        for index, accepted in enumerate(outcome.accepted):
            entered = outcome.step.mean.entered(index).coefficient
            length = entered / accepted.weight * accepted.steps / mean_steps
            if accepted.row == 0:
                lengths.append(length)
                weights.append(accepted.weight)
            else:
                assert length == pytest.approx(1.0)
    assert len(lengths) == 7
    return lengths, weights
