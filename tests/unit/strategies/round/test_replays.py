"""An update that is sent again without work is refused; honest work that gives the same values is not."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Message, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from played_rounds import Recorded, reading, rules_of
from strategy_grid import LAYOUT, Links, NodeGrid, Trainer, reply_with
from strategy_runs import Diary, build, play, trainers

from strategies import wire
from strategies.arrivals import VirtualArrivals
from strategies.engine import Engine
from strategies.errors import Reason, Refused
from strategies.model.aggregation import DenseUpdate
from strategies.model.sketch import model_sketch, update_sketch
from strategies.round.events import Answered, Ended, Joined, Published, RoundDue
from strategies.round.histories import AT_REST, SAME_WITHIN, UPDATES, Replays, Shown

ALIKE = Links(lambda node, sent_s: 1.0)
SIZE = 1000


def vector(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(SIZE).astype(np.float32)


def shown(update: np.ndarray, start: np.ndarray, *, digest: str, round: int = 4) -> Shown:
    return Shown(digest, update_sketch(DenseUpdate(update)), model_sketch(start), round)


def refused(first: Shown, second: Shown, *, nothing: bool = False, others: int = 3) -> bool:
    """Whether a node may not send ``second`` after ``first`` while others send what is new."""
    replays = Replays()
    for other in range(10, 10 + others):
        replays.add(other, shown(vector(other), vector(0), digest=str(other)))
    replays.add(1, first)
    replays.hear(1, second, nothing=nothing)
    replays = restored(replays)
    try:
        replays.check(1)
    except Refused as refusal:
        assert refusal.reason is Reason.DUPLICATE and "the same update as in round 4" in refusal.detail
        return True
    return False


def restored(replays: Replays) -> Replays:
    again = Replays()
    again.restore(json.loads(json.dumps(replays.state())))
    assert again.state() == replays.state()
    return again


def test_an_update_sent_again_is_told_by_its_values_whatever_its_bytes() -> None:
    first, new = vector(3), vector(4)
    sent = shown(first, vector(0), digest="one")
    moved = vector(1)
    assert refused(sent, shown(first.copy(), moved, digest="another base in its head"))
    assert refused(sent, shown(new, moved, digest="one"))  # what cannot be, but the bytes say it
    assert not refused(sent, shown(new, moved, digest="other"))
    assert not refused(sent, shown(first / 2, moved, digest="a multiple, as honest work on a small model may be"))


@given(st.integers(0, 50), st.floats(-9, 1), st.floats(-3, 3))
def test_the_same_update_is_refused_only_if_the_model_has_moved_as_far_as_digits_can_tell(
    seed: int, exponent: float, size: float
) -> None:
    start, direction, update = vector(seed), vector(100 + seed), vector(200 + seed) * np.float32(10**size)
    moved = (start.astype(np.float64) + 10**exponent * direction).astype(np.float32)
    found = refused(shown(update, start, digest="a"), shown(update, moved, digest="b"))
    least = max(SAME_WITHIN, AT_REST * 10**size)  # in units of the direction, whose sketch is about as large as others
    if 10**exponent > 10 * least:
        assert found
    if 10**exponent < least / 10:
        assert not found


def test_what_a_checkpoint_holds_of_a_node_is_small_though_it_is_written_in_every_round() -> None:
    nodes, replays = 200, Replays()
    for round in range(UPDATES):
        for row in range(nodes):
            update = vector(round * nodes + row)
            replays.add(row, shown(update, vector(1000 + round), digest=f"{round * nodes + row:064x}", round=round))
    assert len(json.dumps(restored(replays).state())) < nodes * UPDATES * 450


def refusals(updates: list[int], places: list[int]) -> list[int]:
    """Which of a node's updates are refused, each from its place, while others send what is new."""
    replays, found = Replays(), []
    for other in (8, 9):
        replays.add(other, shown(vector(other), vector(0), digest=str(other)))
    for number, (update, place) in enumerate(zip(updates, places, strict=True)):
        sent = shown(vector(100 + update), vector(200 + place), digest=f"{update} {number}", round=number)
        replays.hear(1, sent, nothing=False)
        try:
            replays.check(1)
        except Refused as refusal:
            assert f"as in round {updates.index(update)}," in refusal.detail
            found.append(number)
        else:
            replays.add(1, sent)
        replays = restored(replays)
        assert max(len(known) for _, known in replays.state()["last"]) <= UPDATES
    return found


@pytest.mark.parametrize("cycle", range(1, UPDATES + 1))
def test_updates_that_are_sent_again_in_turn_are_refused_each_while_the_model_moves(cycle: int) -> None:
    updates = [number % cycle for number in range(12)]
    assert refusals(updates, list(range(12))) == list(range(cycle, 12))


@pytest.mark.parametrize("cycle", [1, 2, 3, 6])
def test_where_the_model_goes_round_in_circles_so_may_the_updates(cycle: int) -> None:
    turns = [number % cycle for number in range(24)]
    assert not refusals(turns, turns)


def test_an_update_that_is_nothing_may_repeat_itself() -> None:
    first = shown(vector(3), vector(0), digest="one")
    assert not refused(first, shown(vector(3), vector(1), digest="one"), nothing=True)


def test_a_model_cannot_creep_away_under_a_node_that_repeats_itself() -> None:
    replays, start, direction = Replays(), vector(0), vector(1)
    for other in (8, 9):
        replays.add(other, shown(vector(other), start, digest=str(other)))
    for step in range(100):
        now = start + np.float32(step * 1e-4) * direction
        replays.hear(1, shown(vector(3), now, digest="one"), nothing=False)
        try:
            replays.check(1)
        except Refused:
            break
        replays.add(1, shown(vector(3), now, digest="one"))
    assert 5 <= step <= 20  # a thousandth of the update are ten of these steps


@pytest.mark.parametrize(("repeating", "counts"), [(0, False), (2, False), (3, True), (5, True)])
def test_where_most_nodes_repeat_themselves_it_is_the_work_that_does(repeating: int, counts: bool) -> None:
    replays = Replays()
    for row in range(7):
        replays.add(row, shown(vector(row), vector(50), digest=str(row)))
    for row in range(1, 1 + repeating):
        replays.hear(row, shown(vector(row), vector(51), digest=str(row)), nothing=False)
    replays.hear(0, shown(vector(0), vector(51), digest="0"), nothing=False)
    if counts:
        replays.check(0)
    else:
        with pytest.raises(Refused, match="same update"):
            replays.check(0)


def run(grid: NodeGrid, rounds: int, **chosen: Any) -> tuple[Engine, Diary]:
    engine, diary = build(**{"cohort": 6, "mode": "sync", "quota": 1.0, "deadline_s": 100.0, **chosen})
    play(engine, VirtualArrivals(grid, ALIKE), rounds)
    json.dumps(engine.saved()[0], allow_nan=False)
    return engine, diary


def in_good_health(engine: Engine, diary: Diary) -> bool:
    fleet = engine.state.fleet
    return not diary.reasons and not fleet.failures.any() and not fleet.excluded.any()


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_training_that_converges_to_the_last_digit_loses_no_node(mode: str) -> None:
    # each node still pulls to its own side, as hard as ever and always alike
    engine, diary = run(trainers(6), 150, mode=mode)
    if mode == "sync":
        hashes = [outcome.model_hash for outcome in diary.rounds]
        norms = engine.state.fleet.update_norm
        assert len(set(hashes[-20:])) < 20 and norms.min() > 0.1, "the model has not converged"
    assert in_good_health(engine, diary) and all(outcome.accepted for outcome in diary.rounds)


class Pulling(Trainer):
    """A node whose loss is a straight line until its target: its update is the same wherever it starts from."""

    def __call__(self, message: Message) -> RecordDict:
        if message.metadata.message_type == "query":
            return super().__call__(message)
        self.orders.append(wire.Order.read(message.content))
        pull = np.random.default_rng(self.partition).standard_normal(LAYOUT.size).astype(np.float32)
        return reply_with(pull)


def test_a_training_whose_updates_are_always_alike_loses_no_node_and_goes_on() -> None:
    engine, diary = run(NodeGrid({1000 + i: Pulling(i) for i in range(6)}), 20)
    assert engine.model.version == 20 and not engine.state.fleet.excluded.any()
    assert all(len(outcome.accepted) == 6 for outcome in diary.rounds[3:])


class Hinged(Trainer):
    """A node that has nothing to learn but in every fifth round."""

    def __call__(self, message: Message) -> RecordDict:
        content = super().__call__(message)
        if wire.UPDATE in content and (len(self.orders) + self.partition) % 5:
            return reply_with(np.zeros(LAYOUT.size, np.float32))
        return content


def test_a_node_that_has_something_to_learn_while_the_others_have_not_is_believed() -> None:
    engine, diary = run(NodeGrid({1000 + i: Hinged(i) for i in range(6)}), 40)
    assert in_good_health(engine, diary)


class Resending(Trainer):
    """A node that trains honestly ``honest`` times, then sends the last ``kept`` of it again in turn."""

    def __init__(self, partition: int, honest: int, kept: int = 1) -> None:
        super().__init__(partition, examples=32)  # as trainers() gives node 0
        self._honest, self._kept = honest, deque[RecordDict](maxlen=kept)

    def __call__(self, message: Message) -> RecordDict:
        content = super().__call__(message)
        if wire.UPDATE not in content:
            return content
        if len(self.orders) <= self._honest:
            self._kept.append(content)
        else:
            self._kept.rotate(-1)
        return self._kept[-1]


@pytest.mark.parametrize(("honest", "kept"), [(1, 1), (2, 1), (2, 2), (4, 1), (4, 2), (4, 3)])
def test_a_node_that_sends_updates_again_while_the_model_moves_weighs_nothing_and_is_excluded(
    honest: int, kept: int
) -> None:
    grid = trainers(6)
    grid.nodes[1000] = Resending(0, honest, kept)
    engine, diary = run(grid, honest + 6)
    counted = [sum(accepted.node == "node-0" for accepted in outcome.accepted) for outcome in diary.rounds]
    assert counted == [1] * honest + [0] * 6
    assert engine.state.fleet.excluded.tolist() == [True] + [False] * 5
    assert {refused.node for outcome in diary.rounds for refused in outcome.refused} == {"node-0"}


def test_a_node_that_sends_its_update_again_from_where_it_was_made_changes_nothing() -> None:
    honest, _ = run(trainers(6), 150)
    grid = trainers(6)
    grid.nodes[1000] = Resending(0, 140)
    engine, diary = run(grid, 150)
    assert in_good_health(engine, diary)
    np.testing.assert_allclose(engine.model.vector_P, honest.model.vector_P, atol=1e-6)


def test_an_update_may_be_the_same_after_a_roll_back_but_not_after_the_model_has_moved_on() -> None:
    run = Recorded(rules_of("random", mode="sync", cohort=3, quota=1.0))
    places = [model_sketch(vector(seed)) for seed in range(9)]
    run.tell(Published(0.0, "00" * 32, 1.0, places[0]))
    for row in range(3):
        run.tell(Joined(0.0, f"node-{row}", 10))

    def round_(number: int, place: int) -> list[int]:
        """Play a round in which node 0 sends the same as ever; the rows that counted."""
        run.tell(RoundDue(float(number), number))
        for order, opened in sorted(run.state.orders.items()):
            values = vector(100 if opened.row == 0 else 1000 * number + opened.row)
            run.tell(Answered(float(number), order, replace(reading(order), sketch=update_sketch(DenseUpdate(values)))))
        rows = sorted(run.state.open.added)
        run.tell(Ended(float(number)))
        run.tell(Published(float(number), f"{number:064x}", 1.0, places[place]))
        return rows

    assert round_(1, 1) == [0, 1, 2]  # from place 0
    assert round_(2, 0) == [1, 2]  # from place 1
    assert round_(3, 2) == [0, 1, 2]  # from place 0 again, to which the model went back
    assert round_(4, 3) == [1, 2]
