"""A model has exploded when the server's own held-out loss says so, and the update that did it is found."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from strategy_grid import LAYOUT, Links, Trainer, reply_with
from strategy_runs import Diary, build, play, trainers

from strategies import wire
from strategies.arrivals import VirtualArrivals
from strategies.engine import Engine
from strategies.errors import Reason
from strategies.round.explosion import HeldOutLoss, culprits, left_out, most_culprits, worst_first

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
    diary.alone = held_out

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


def spread(model_P: np.ndarray) -> float:
    """A held-out loss: 1, and how far the values lie from 0 beyond what honest nodes make of them."""
    with np.errstate(over="ignore"):
        return 1.0 + float(np.maximum(0.0, np.abs(model_P) - 3.0).mean())


def measured_run(
    grid: Any, rounds: int, loss_of: Callable[[Any], float] = spread, **chosen: Any
) -> tuple[Engine, Diary]:
    """A run whose server measures the models that it makes, and refuses no update for its norm."""
    settings = {"cohort": 6, "mode": "sync", "quota": 1.0, "deadline_s": 100.0, "refuse_outliers": False, **chosen}
    engine, diary = build(**settings)
    diary.loss_of = loss_of
    play(
        engine,
        VirtualArrivals(grid, ALIKE),
        rounds,
        lambda number, arrays: engine.evaluated(spread(engine.model.average_P) if number else CHANCE),
    )
    json.dumps(engine.saved()[0], allow_nan=False)
    return engine, diary


def exploding(value: float = 1e4) -> Any:
    return lambda reply: reply_with(np.full(LAYOUT.size, value, np.float32)) if wire.UPDATE in reply else reply


@pytest.mark.parametrize("value", [1e4, 3e38])  # with the latter the step itself overflows, and is undone at once
def test_the_update_that_exploded_the_model_is_counted_against_its_node_alone(value: float) -> None:
    grid = trainers(6)
    grid.nodes[1000] = Actor(0, exploding(value), honest=5)
    engine, diary = measured_run(grid, 6)
    assert engine.state.fleet.failures.tolist() == [1, 0, 0, 0, 0, 0]
    assert engine.state.exploded == (value == 1e4) and rolled_back(diary) == ([] if value == 1e4 else [6])
    assert not engine.state.unmeasured


def test_a_measurement_that_fails_is_not_taken_for_updates_that_are_not_kept() -> None:
    """PyTorch raises this for an operator that a device lacks."""

    def lacking(values: Any) -> float:
        raise NotImplementedError("this device has no such operator")

    grid = trainers(6)
    grid.nodes[1000] = Actor(0, exploding(), honest=2)
    with pytest.raises(NotImplementedError, match="no such operator"):
        measured_run(grid, 6, loss_of=lacking)


def test_each_update_is_measured_once_by_the_loss_for_one_alone_and_few_models_of_several_are_evaluated() -> None:
    grid = trainers(6)
    grid.nodes[1000] = Actor(0, exploding(), honest=5)
    _, diary = measured_run(grid, 6)
    assert diary.measured.count(True) == 6 and 2 <= diary.measured.count(False) <= 2 + math.log2(6)


@pytest.mark.parametrize(("nodes", "aggregation"), [(2, "mean"), (3, "mean"), (6, "mean"), (2, "norm_clipping")])
def test_a_node_that_explodes_every_model_is_excluded_and_the_others_train(nodes: int, aggregation: str) -> None:
    grid = trainers(nodes)
    grid.nodes[1000] = Actor(0, exploding(), honest=2)
    engine, diary = measured_run(grid, 12, aggregation=aggregation)
    assert rolled_back(diary) == [4, 5, 6]
    assert engine.state.fleet.excluded.tolist() == [True] + [False] * (nodes - 1)
    assert {accepted.node for outcome in diary.rounds[6:] for accepted in outcome.accepted} == {
        f"node-{i}" for i in range(1, nodes)
    }


@pytest.mark.parametrize("nodes", [3, 6])
def test_updates_that_are_clipped_to_the_norm_of_the_others_explode_no_model(nodes: int) -> None:
    grid = trainers(nodes)
    # each update is another one: the same one again would be refused as a replay, and nothing would be clipped
    actor = Actor(0, lambda reply: exploding(1e4 + len(actor.orders))(reply), honest=2)
    grid.nodes[1000] = actor
    _, diary = measured_run(grid, 12, aggregation="norm_clipping")
    assert not rolled_back(diary)
    assert all(len(outcome.accepted) == nodes for outcome in diary.rounds)


def test_a_failure_is_forgotten_once_the_version_with_the_next_update_has_proved_sound() -> None:
    grid = trainers(6)
    actor = Actor(0, lambda reply: exploding()(reply) if len(actor.orders) == 4 else reply)
    grid.nodes[1000] = actor
    engine, diary = measured_run(grid, 16)
    assert len(rolled_back(diary)) == 1 and not engine.state.fleet.failures.any()
    assert not engine.state.fleet.distrust.any() and not engine.state.fleet.excluded.any()


@pytest.mark.parametrize("every", [2, 3])
def test_a_node_that_explodes_every_few_models_is_excluded_at_the_third(every: int) -> None:
    grid = trainers(6)
    actor = Actor(0, lambda reply: exploding()(reply) if len(actor.orders) % every == 0 else reply, honest=3)
    grid.nodes[1000] = actor
    engine, diary = measured_run(grid, 16)
    assert len(rolled_back(diary)) == 3
    assert engine.state.fleet.excluded.tolist() == [True] + [False] * 5


def test_a_slowly_poisoned_model_goes_back_to_its_best_version_and_not_by_one_step() -> None:
    # the loss rises a little in each round, which is no explosion, until it is one
    losses = {number: 0.2 for number in range(1, 5)} | {5: 0.1, 6: 0.5, 7: 0.9, 8: 1.4, 9: 1.9, 10: 2.2}
    engine, diary = run(trainers(6), losses, 11)
    by_round = {outcome.round: outcome for outcome in diary.rounds}
    assert rolled_back(diary) == [11] and by_round[11].rolled_back == 5
    assert by_round[11].base_hash == by_round[5].model_hash


def test_a_model_that_explodes_again_from_where_it_went_back_to_goes_back_to_its_best_version() -> None:
    engine, diary = run(trainers(6), {3: 0.9, 5: 300.0, 6: 300.0}, 8)
    by_round = {outcome.round: outcome for outcome in diary.rounds}
    assert [(number, by_round[number].rolled_back) for number in rolled_back(diary)] == [(6, 4), (7, 3)]
    assert by_round[7].base_hash == by_round[3].model_hash


def test_the_best_version_is_kept_in_a_checkpoint() -> None:
    engine, diary = run(trainers(6), {3: 0.2}, 6)
    document, vectors = engine.saved()
    again, _ = build(cohort=6)
    again.restore(json.loads(json.dumps(document)), vectors, now_s=0.0, in_flight=False)
    assert again.state.versions.best == 3 and again.model.best is not None and engine.model.best is not None
    np.testing.assert_array_equal(again.model.best.vector_P, engine.model.best.vector_P)
    again.model.roll_back(to=3, version=9)
    assert again.model.hash == next(outcome.model_hash for outcome in diary.rounds if outcome.round == 3)


def test_an_update_with_which_the_model_measures_nothing_is_refused() -> None:
    grid = trainers(6)
    grid.nodes[1000] = Actor(0, lambda reply: reply_with(np.full(LAYOUT.size, 4.0, np.float32)), honest=2)
    engine, diary = run(
        grid, {}, 6, held_out=lambda update, model_P: math.nan if np.allclose(update.vector_P, 4.0) else 1.0
    )
    assert set(diary.reasons) == {Reason.NON_FINITE} and engine.model.version == 6
    assert {refused.node for outcome in diary.rounds for refused in outcome.refused} == {"node-0"}


def blamed(harm: list[float], most: float = 5.0) -> tuple[list[int], int]:
    """Who is blamed where update i raises the loss by ``harm[i]``, shared by all that count; and the measurements."""
    alone = [1.0 + each for each in harm]
    ranked, taken = worst_first(alone), []

    def loss(count: int) -> float:
        taken.append(count)
        rest = [harm[number] for number in ranked[count:]]
        return 1.0 + sum(rest) / max(1, len(rest))

    without = left_out(len(harm), loss, most)
    return culprits([10 + number for number in range(len(harm))], alone, without, most), len(taken)


def test_nobody_is_blamed_for_what_all_have_in_common() -> None:
    assert blamed([90.0] * 4)[0] == blamed([90.0, 80.0, 70.0])[0] == []
    assert culprits([], [], [(0, None)], 5.0) == []
    assert culprits([7, 8], [], [], 5.0) == []  # nobody could measure


def test_nobody_is_blamed_where_all_updates_together_are_sound() -> None:
    assert blamed([10.0, 0.0, 0.0, 0.0])[0] == []  # alone it would explode the model, but it is one of four


@given(st.lists(st.sampled_from([0.0, 0.5, 30.0, 1e3, 1e9]), min_size=1, max_size=40))
def test_the_fewest_worst_are_blamed_without_which_the_model_is_sound(harm: list[float]) -> None:
    found, measured = blamed(harm)
    ordered = sorted(harm, reverse=True)
    sound = [count for count in range(len(harm) + 1) if sum(ordered[count:]) / max(1, len(ordered[count:])) <= 4.0]
    fewest = min(sound)
    assert len(found) == (fewest if fewest <= most_culprits(len(harm)) else 0)
    assert all(harm[row - 10] >= ordered[len(found)] for row in found if len(found) < len(harm))
    assert measured <= 2 + math.ceil(math.log2(len(harm) + 1))


def test_what_is_not_finite_is_worse_than_all_that_is() -> None:
    assert worst_first([1.0, None, 1e300, math.nan]) == [1, 3, 2, 0]
    assert culprits([4, 5, 6], [1.0, None, 1.0], [(0, None), (1, 1.0)], 5.0) == [5]
