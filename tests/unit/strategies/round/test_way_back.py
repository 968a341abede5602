"""A roll-back leads to a version that is kept, was not given up, and is not worse than need be."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from flwr.app import Message, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from played_rounds import Recorded, reading, rules_of
from strategy_grid import LAYOUT, Links, Trainer, reply_with
from strategy_runs import build, play, trainers

from strategies import wire
from strategies.arrivals import VirtualArrivals
from strategies.round.commands import KeepBest, MeasureSuspects, RollBack, StepModel
from strategies.round.events import Answered, Diverged, Ended, Evaluated, Joined, Measured, Published, Resumed, RoundDue
from strategies.round.state import State

CHANCE = 2.3
LOSSES = st.sampled_from([None, 0.1, 0.2, 0.5, 1.0, 1.5, 1.9, 2.2, 300.0])  # None: the evaluation failed
ROUNDS = st.tuples(st.booleans(), st.sampled_from([False] * 4 + [True]), LOSSES, st.sampled_from([False] * 9 + [True]))


class Story:
    """A run of which is known where each version's values came from, as the engine keeps them."""

    def __init__(self) -> None:
        self.run = Recorded(rules_of("random", mode="sync", cohort=1, quota=1.0, exclude_failing=False))
        self.values = {0: 0}  # version -> the step that made its values
        self.good = self.best = None
        self.given_up: set[int] = set()
        self.latest, self.steps, self.round = 0, 0, 0
        self.tell(Published(0.0, "00" * 32, 1.0, ()))
        self.tell(Joined(0.0, "node", 10))
        self.tell(Evaluated(0.0, CHANCE))

    def tell(self, event: Any) -> None:
        for command in self.run.tell(event):
            match command:
                case StepModel():
                    self.good = self.latest
                case KeepBest(version=version):
                    assert version == self.latest
                    self.best = version
                case RollBack(to=to, version=version):
                    assert to in (self.good, self.best), f"version {to} is not kept"
                    assert to not in self.given_up, f"version {to} was given up"
                    self.given_up.update(range(to + 1, version))
                    self.values[version], self.good, self.latest = self.values[to], to, version
                    self.tell(Published(0.0, "ab" * 32, 1.0, ()))
                case MeasureSuspects():
                    self.tell(Measured(0.0))

    def play(self, counts: bool, diverges: bool, loss: float | None, model_lost: bool) -> None:
        self.round += 1
        self.tell(RoundDue(0.0, self.round))
        for order in list(self.run.state.orders) if counts else []:
            self.tell(Answered(0.0, order, reading(order)))
        self.tell(Ended(0.0, tuple(self.run.state.orders)))
        if self.run.state.open is not None:
            if diverges:
                self.tell(Diverged(0.0))
            else:
                self.steps += 1
                self.latest = self.run.state.open.next_version
                self.values[self.latest] = self.steps
                self.tell(Published(0.0, "cd" * 32, 1.0, ()))
        self.tell(Evaluated(0.0, loss))
        if model_lost:
            self.run.state = State.restored(self.run.state.rules, json.loads(json.dumps(self.run.state.json())))
            self.tell(Resumed(0.0, in_flight=False, model_lost=True))


@given(st.lists(ROUNDS, max_size=25))
def test_no_roll_back_leads_to_a_version_that_is_not_kept_or_was_given_up(rounds: list[Any]) -> None:
    story = Story()
    for each in rounds:
        story.play(*each)


class Poisoned(Trainer):
    """A node that answers in some rounds only."""

    def __init__(self, partition: int, silent: set[int]) -> None:
        super().__init__(partition, examples=32)
        self._silent = silent

    def __call__(self, message: Message) -> RecordDict:
        content = super().__call__(message)
        if wire.UPDATE in content and self.orders[-1].round in self._silent:
            return reply_with(np.full(LAYOUT.size, np.nan, np.float32))
        return content


def test_a_failed_evaluation_after_a_roll_back_to_the_best_does_not_bring_back_what_was_given_up() -> None:
    # the best is version 5; the loss creeps up until it explodes; then two rounds have no update, and one evaluation
    # fails although the model is the best one
    grid = trainers(2)
    for i, node in enumerate(grid.nodes):
        grid.nodes[node] = Poisoned(i, {11, 12})
    losses = {5: 0.1, 6: 0.5, 7: 0.9, 8: 1.4, 9: 1.9, 10: 2.2, 11: 0.1, 12: float("nan")}
    engine, diary = build(cohort=2, mode="sync", quota=1.0, deadline_s=100.0)
    play(
        engine,
        VirtualArrivals(grid, Links(lambda node, sent_s: 1.0)),
        13,
        lambda number, arrays: engine.evaluated(losses.get(number, 0.2) if number else CHANCE),
    )
    by_round = {outcome.round: outcome for outcome in diary.rounds}
    assert [by_round[number].rolled_back for number in (11, 12, 13)] == [5, None, 5]
    assert by_round[13].base_hash == by_round[5].model_hash


def test_a_best_version_that_was_given_up_is_best_no_more_and_the_next_sound_one_is() -> None:
    story = Story()
    for loss in (0.5, 0.2):
        story.play(True, False, loss, False)
    assert story.best == 2
    story.play(False, False, None, False)  # nothing has changed, but the evaluation fails
    story.play(True, False, 0.4, False)  # begins with version 1 put back
    assert story.run.state.versions.best == story.latest and 2 in story.given_up
