"""The round's machine under whatever happens to it: its bounds hold, and its log folds to the run."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from played_rounds import Recorded, reading, rules_of

from strategies.errors import Reason
from strategies.fleet.link import LinkSample
from strategies.round.commands import (
    AddUpdate,
    CloseRound,
    KeepBest,
    MeasureSuspects,
    Refuse,
    RollBack,
    SendOrder,
    StepModel,
)
from strategies.round.events import (
    Answered,
    Deserted,
    Diverged,
    Ended,
    Evaluated,
    Event,
    Failed,
    Joined,
    Left,
    Measured,
    Probed,
    Published,
    ReplyFault,
    Resumed,
    Returned,
    RoundDue,
)
from strategies.round.explosion import most_culprits
from strategies.round.replay import replay
from strategies.round.rules import ORDERS_PER_NODE
from strategies.round.state import Phase, State
from strategies.round.step import step
from strategies.selection import POLICIES


class Machine(RuleBasedStateMachine):
    """Nodes come, answer, fail, lie and leave in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.round = 0
        self.version = 0
        self.published = 0  # the latest version that anybody may have been sent
        self.opened: dict[int, int] = {}  # order -> row
        self.counted: list[int] = []
        self.best = 0  # the version that is kept as the best
        self.before = 0  # the version before the last step, or the one put back since
        self.given_up: set[int] = set()  # versions that were rolled back
        self.run: Recorded | None = None
        self.twin: State | None = None  # what the state was at the end of a round, read back from JSON

    @rule(
        policy=st.sampled_from(sorted(POLICIES)),
        mode=st.sampled_from(["sync", "async"]),
        cohort=st.integers(1, 6),
        deadline_s=st.sampled_from([0.0, 1e-9, 60.0, math.inf]),
        keep_late=st.booleans(),
        data=st.sampled_from([0, 50]),
    )
    @precondition(lambda self: self.run is None)
    def begin(self, policy: str, mode: str, cohort: int, deadline_s: float, keep_late: bool, data: int) -> None:
        self.run = Recorded(rules_of(policy, mode=mode, cohort=cohort, deadline_s=deadline_s, keep_late=keep_late))
        self.tell(Published(0.0, "00" * 32, 1.0, ()))
        for index in range(3):
            self.tell(Joined(0.0, f"node-{index}", data * (index + 1)))

    def tell(self, event: Event) -> None:
        assert self.run is not None
        closed = measures = False
        commands = self.run.tell(event)
        if self.twin is not None:
            assert step(self.twin, event)[1] == commands
        if isinstance(event, Published):
            self.published = self.version
        for command in commands:
            match command:
                case SendOrder():
                    self.opened[command.order] = command.row
                    assert self.run.state.fleet.present[command.row]
                case AddUpdate():
                    self.counted.append(command.order)
                case StepModel(version=version):
                    self.before, self.version = version - 1, version
                case RollBack(to=to, version=version):
                    assert to in (self.best, self.before) and version == self.published + 1
                    assert to not in self.given_up, "a version that was given up is put back"
                    self.given_up.update(range(to + 1, version))
                    self.before, self.version = to, version
                case KeepBest(version=version):
                    assert version == self.state.versions.version
                    self.best = version
                case MeasureSuspects():
                    measures = True
                case CloseRound(weights=weights):
                    closed = True
                    assert not weights or sum(weights) == pytest.approx(1.0)
        if closed:
            self.check_round()
        if measures:
            self.measured()

    def measured(self) -> None:
        """What nobody can measure, or some losses by which some may be blamed."""
        rows = self.state.unmeasured
        assert rows
        rng = random.Random(self.version)
        alone = tuple(rng.choice([None, 0.0, 1.0, 1e12]) for _ in rows)
        without = ((0, None), *[(most_culprits(len(rows)), rng.choice([None, 0.0, 1e12]))])
        self.tell(rng.choice([Measured(self.now_s), Measured(self.now_s, alone, without)]))

    def check_round(self) -> None:
        """What holds whenever a round is closed: balanced books, and a state that survives JSON."""
        state = self.state
        assert abs(float((state.accounts.due - state.accounts.paid).sum())) < 1e-6
        saved = json.loads(json.dumps(state.json(), allow_nan=False))
        restored = State.restored(state.rules, saved)
        assert json.loads(json.dumps(restored.json())) == saved
        self.twin = restored

    @property
    def state(self) -> State:
        assert self.run is not None
        return self.run.state

    def in_phase(self, phase: Phase | None) -> bool:
        if self.run is None:
            return False
        return (self.state.open.phase if self.state.open else None) == phase

    @rule(by_s=st.sampled_from([-86_400.0, -1.0, 86_400.0]))
    @precondition(lambda self: self.run is not None)
    def clock_jumps(self, by_s: float) -> None:
        self.now_s += by_s

    @rule(examples=st.integers(0, 10_000))
    @precondition(lambda self: self.run is not None and len(self.state.fleet) < 30)
    def joins(self, examples: int) -> None:
        self.tell(Joined(self.now_s, f"node-{len(self.state.fleet)}", examples))

    @rule(data=st.data(), gone=st.booleans())
    @precondition(lambda self: self.run is not None)
    def comes_and_goes(self, data: st.DataObject, gone: bool) -> None:
        row = data.draw(st.integers(0, len(self.state.fleet) - 1))
        self.tell(Left(self.now_s, (row,)) if gone else Returned(self.now_s, (row,)))

    @rule(data=st.data(), bps=st.floats(1.0, 1e11), rtt_s=st.floats(1e-6, 59.0))
    @precondition(lambda self: self.run is not None)
    def is_probed(self, data: st.DataObject, bps: float, rtt_s: float) -> None:
        row = data.draw(st.integers(0, len(self.state.fleet) - 1))
        self.tell(Probed(self.now_s, row, LinkSample(rtt_s=rtt_s, uplink_bps=bps)))

    @rule()
    @precondition(lambda self: self.run is not None and not self.state.fleet.present.any())
    def nobody_is_left(self) -> None:
        self.tell(Deserted(self.now_s))
        assert not self.state.fleet.excluded.any()

    @rule(data=st.data())
    @precondition(lambda self: self.run is not None)
    def says_who_it_is(self, data: st.DataObject) -> None:
        self.tell(Joined(self.now_s, data.draw(st.sampled_from(self.state.fleet.names)), 1))

    @rule()
    @precondition(lambda self: self.in_phase(None) and self.state.fleet.present.any())
    def round_is_due(self) -> None:
        self.round += 1
        self.tell(RoundDue(self.now_s, self.round))

    @rule(
        data=st.data(),
        norm=st.one_of(st.none(), st.floats(0.0, 1e6)),
        loss=st.one_of(st.none(), st.floats(0.0, 1e12)),
        elapsed_s=st.floats(1e-3, 1e4),
        fault=st.sampled_from([None, None, None, Reason.NON_FINITE, Reason.BAD_SIGNATURE]),
    )
    @precondition(lambda self: self.in_phase(Phase.COLLECTING) and self.state.orders)
    def answers(self, data: st.DataObject, norm: Any, loss: Any, elapsed_s: float, fault: Reason | None) -> None:
        self.now_s += elapsed_s
        order = data.draw(st.sampled_from(sorted(self.state.orders)))
        said = reading(order, norm=norm, loss=loss, elapsed_s=elapsed_s)
        self.tell(Answered(self.now_s, order, said, fault and ReplyFault(fault, "so it is said")))

    @rule(data=st.data())
    @precondition(lambda self: self.in_phase(Phase.COLLECTING) and self.opened)
    def answers_once_more(self, data: st.DataObject) -> None:
        order = data.draw(st.sampled_from(sorted(self.opened)))
        if order not in self.state.orders:
            assert self.run is not None
            (refused,) = self.run.tell(Answered(self.now_s, order, reading(order)))
            assert isinstance(refused, Refuse) and refused.reason is Reason.DUPLICATE

    @rule(data=st.data(), left=st.booleans())
    @precondition(lambda self: self.in_phase(Phase.COLLECTING) and self.state.orders)
    def fails(self, data: st.DataObject, left: bool) -> None:
        self.tell(Failed(self.now_s, data.draw(st.sampled_from(sorted(self.state.orders))), "gone", left))

    @rule(waits_s=st.floats(0.0, 1e4))
    @precondition(lambda self: self.in_phase(Phase.COLLECTING))
    def ends(self, waits_s: float) -> None:
        self.now_s += waits_s
        kept = self.state.rules.settings.keep_late
        self.tell(Ended(self.now_s, () if kept else tuple(self.state.orders)))

    @rule(norm=st.floats(0.0, 1e3), diverges=st.sampled_from([False, False, False, True]))
    @precondition(lambda self: self.in_phase(Phase.STEPPING) or self.in_phase(Phase.RESTORING))
    def model_moves(self, norm: float, diverges: bool) -> None:
        if diverges and self.in_phase(Phase.STEPPING) and self.state.open and self.state.open.rolled_back is None:
            self.tell(Diverged(self.now_s))
        else:
            self.tell(Published(self.now_s, f"{self.version:064x}", norm, ()))

    @rule(loss=st.one_of(st.none(), st.floats(0.0, 1e9)))
    @precondition(lambda self: self.in_phase(None) and self.round)
    def is_evaluated(self, loss: float | None) -> None:
        self.tell(Evaluated(self.now_s, loss))

    @rule(in_flight=st.booleans(), model_lost=st.booleans())
    @precondition(lambda self: self.in_phase(None) and self.round)
    def server_starts_again(self, in_flight: bool, model_lost: bool) -> None:
        self.run.state = State.restored(self.state.rules, json.loads(json.dumps(self.state.json())))
        self.twin = None
        self.tell(Resumed(self.now_s, in_flight, model_lost=model_lost))

    @invariant()
    def nobody_is_overworked(self) -> None:
        if self.run is not None:
            fleet, rules = self.state.fleet, self.state.rules
            assert fleet.at_work.sum() <= 1.3 * rules.settings.cohort + 1e-9
            assert fleet.orders.max(initial=0) <= ORDERS_PER_NODE
            held = np.bincount([order.row for order in self.state.orders.values()], minlength=len(fleet))
            assert (held == fleet.orders).all()

    @invariant()
    def no_update_counts_twice(self) -> None:
        assert len(set(self.counted)) == len(self.counted)

    @invariant()
    def what_is_known_is_finite(self) -> None:
        if self.run is not None:
            fleet = self.state.fleet
            for column in (fleet.rtt_s, fleet.uplink_bps, fleet.downlink_bps, fleet.quality, fleet.owed):
                assert np.isfinite(column).all()

    def teardown(self) -> None:
        if self.run is not None:
            again = replay(self.run.lines)
            assert again.difference is None and again.broken is None and again.events == len(self.run.lines) - 1
            if self.state.open is None and again.state is not None:
                assert again.state.json() == self.state.json()


QUIET = {"suppress_health_check": [HealthCheck.filter_too_much, HealthCheck.too_slow], "deadline": None}
TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=100, stateful_step_count=40, **QUIET)


@pytest.mark.slow
@pytest.mark.no_cover
class TestMachineAtLength(Machine.TestCase):
    settings = settings(max_examples=10_000, stateful_step_count=60, **QUIET)
