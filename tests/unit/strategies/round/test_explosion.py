"""A model has exploded when the server's own held-out loss says so, and the update that did it is found."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from strategy_grid import LAYOUT, Links, Trainer, reply_with
from strategy_runs import Diary, build, play, trainers

from strategies import wire
from strategies.arrivals import VirtualArrivals
from strategies.engine import Engine
from strategies.errors import Reason
from strategies.round.explosion import HeldOutLoss, Suspect, culprits

ALIKE = Links(lambda node, sent_s: 1.0)
CHANCE = math.log(10)


def watched(chance: float = CHANCE, before: float | None = None) -> HeldOutLoss:
    watch = HeldOutLoss()
    watch.restore({"chance": chance, "before": None, "best": None})
    if before is not None:
        watch.sound(before)
    return watch


def run(grid: Any, losses: dict[int, float], rounds: int, **chosen: Any) -> tuple[Engine, Diary]:
    """A run whose server measures these losses after these rounds, and 1 after the others."""
    settings = {"cohort": 6, "mode": "sync", "quota": 1.0, "deadline_s": 100.0, **chosen}
    held_out = settings.pop("held_out", lambda update, model_P: None)
    engine, diary = build(**settings)
    diary.held_out = held_out

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        engine.evaluated(losses.get(server_round, 1.0) if server_round else CHANCE)
        return None

    play(engine, VirtualArrivals(grid, ALIKE), rounds, evaluate)
    return engine, diary


def rolled_back(diary: Diary) -> list[int]:
    return [outcome.round for outcome in diary.rounds if outcome.rolled_back is not None]


class Actor(Trainer):
    """A node that plays a part in every round after ``honest`` ones."""

    def __init__(self, partition: int, act: Any, honest: int = 0) -> None:
        super().__init__(partition)
        self._act, self._honest = act, honest

    def __call__(self, message: Message) -> RecordDict:
        reply = super().__call__(message)
        return self._act(reply) if len(self.orders) > self._honest else reply


@pytest.mark.parametrize(
    ("before", "loss"),
    [(0.006, 0.073), (0.05, 1.9), (0.3, 2.0), (1.3, CHANCE), (1e-12, 0.2), (None, 4.0), (4.0, 6.0)],
)
def test_a_loss_that_is_no_worse_than_what_was_known_or_chance_explains_is_no_explosion(
    before: float | None, loss: float
) -> None:
    assert not watched(before=before).exploded(loss)


@pytest.mark.parametrize("loss", [None, math.nan, math.inf, 4.7, 80.0, 1e30])
def test_a_loss_far_beyond_chance_is_an_explosion(loss: float | None) -> None:
    assert watched(before=0.1).exploded(loss) and watched().exploded(loss)


def test_a_model_that_has_forgotten_nearly_all_it_knew_has_exploded_though_it_is_no_worse_than_chance() -> None:
    watch = watched(before=0.3)
    watch.sound(0.9)  # not the last loss counts but the best, or one could forget in steps
    assert watch.exploded(2.2) and not watch.exploded(2.0)
    assert not watched(before=1.2).exploded(2.2)  # which it may not have learned for good


def test_a_loss_that_may_be_negative_has_its_chance_too() -> None:
    assert watched(chance=-1.0, before=-3.0).exploded(-1.1) and not watched(chance=-1.0, before=-3.0).exploded(-2.0)
    assert not watched(chance=0.0, before=-3.0).exploded(-2.9)


def test_without_a_measure_of_chance_only_what_is_not_finite_has_exploded() -> None:
    assert not HeldOutLoss().exploded(1e30) and HeldOutLoss().exploded(None)


def test_a_healthy_run_whose_training_loss_jumps_is_not_rolled_back() -> None:
    grid = trainers(6)
    jumps = {node: Actor(i, lambda reply: said(reply, 0.073), honest=6) for i, node in enumerate(grid.nodes)}
    for node, actor in jumps.items():
        grid.nodes[node] = actor
    engine, diary = run(grid, {7: 0.006, 8: 0.073, 9: 1.9}, 12)
    assert not rolled_back(diary) and engine.model.version == 12 and not diary.reasons


def said(reply: RecordDict, loss: float) -> RecordDict:
    metrics = dict(reply.metric_records[wire.METRICS])
    reply[wire.METRICS] = MetricRecord({**metrics, wire.LOSS: loss, wire.SQUARED_LOSS: loss**2})
    return reply


@pytest.mark.parametrize("loss", [1e8, 1e300])
def test_a_node_that_claims_a_huge_loss_after_six_honest_rounds_rolls_nothing_back(loss: float) -> None:
    grid = trainers(6)
    grid.nodes[1000] = Actor(0, lambda reply: said(reply, loss), honest=6)
    engine, diary = run(grid, {}, 14)
    assert not rolled_back(diary) and engine.model.version == 14
    assert {refused.node for outcome in diary.rounds for refused in outcome.refused} <= {"node-0"}
    assert all(len(outcome.accepted) >= 5 for outcome in diary.rounds)


def test_nodes_that_answer_with_what_is_not_a_number_roll_nothing_back_and_are_left_alone() -> None:
    grid = trainers(6)
    for node in list(grid.nodes)[:4]:
        grid.nodes[node] = Actor(0 if node == 1000 else (node - 1000) // 7, nothing, honest=3)
    engine, diary = run(grid, {}, 10)
    assert not rolled_back(diary) and engine.model.version == 10
    assert Reason.NON_FINITE in diary.reasons


def nothing(reply: RecordDict) -> RecordDict:
    return reply_with(np.full(LAYOUT.size, np.nan, np.float32)) if wire.UPDATE in reply else reply


def test_a_real_explosion_is_rolled_back_once_and_the_run_goes_on() -> None:
    engine, diary = run(trainers(6), {10: 300.0}, 14)
    assert rolled_back(diary) == [11]
    before = {outcome.round: outcome for outcome in diary.rounds}
    assert before[11].base_hash == before[9].model_hash and engine.model.version == 15


def test_the_update_that_exploded_the_model_is_counted_against_its_node_alone() -> None:
    grid = trainers(6)
    grid.nodes[1000] = Actor(0, lambda reply: reply_with(np.full(LAYOUT.size, 4.0, np.float32)), honest=5)

    def held_out(update: Any, model_P: Any) -> float:
        return 500.0 if np.allclose(update.vector_P, 4.0) else 1.5

    engine, diary = run(grid, {6: 300.0}, 6, held_out=held_out, refuse_outliers=False)
    assert engine.state.fleet.failures.tolist() == [1, 0, 0, 0, 0, 0]
    assert engine.state.exploded and not engine.state.suspects
    json.dumps(engine.saved()[0], allow_nan=False)


def test_an_update_with_which_the_model_measures_nothing_is_refused() -> None:
    grid = trainers(6)
    grid.nodes[1000] = Actor(0, lambda reply: reply_with(np.full(LAYOUT.size, 4.0, np.float32)), honest=2)
    engine, diary = run(
        grid, {}, 6, held_out=lambda update, model_P: math.nan if np.allclose(update.vector_P, 4.0) else 1.0
    )
    assert set(diary.reasons) == {Reason.NON_FINITE} and engine.model.version == 6
    assert {refused.node for outcome in diary.rounds for refused in outcome.refused} == {"node-0"}


def test_nobody_is_blamed_for_what_all_have_in_common() -> None:
    assert culprits([Suspect(row, 1.0, 90.0) for row in range(4)], 5.0) == []
    assert culprits([Suspect(row, 1.0 + row / 10) for row in range(4)], 5.0) == []
    assert culprits([Suspect(0, 1e4), *(Suspect(row, 1.0) for row in range(1, 6))], 5.0) == [0]
    assert culprits([], 5.0) == []
