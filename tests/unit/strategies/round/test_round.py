"""The round's machine under whatever happens to it: its bounds hold, and its log tells the whole story."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from strategies import lineup
from strategies.errors import BadLine, OutOfOrder, Reason
from strategies.event_log import EventLog, Mark
from strategies.fleet.link import LinkSample
from strategies.planning import Level
from strategies.round.commands import AddUpdate, CloseRound, Command, Refuse, RollBack, SendOrder, StepModel
from strategies.round.events import (
    Answered,
    Deserted,
    Diverged,
    Ended,
    Evaluated,
    Event,
    Failed,
    Fault,
    Joined,
    Left,
    Probed,
    Published,
    Reading,
    Resumed,
    Returned,
    RoundDue,
    Sent,
)
from strategies.round.lines import as_json, event_line, rules_line
from strategies.round.replay import first_gap, replay
from strategies.round.rules import ORDERS_PER_NODE, Rules
from strategies.round.state import Phase, State
from strategies.round.step import step
from strategies.selection import POLICIES
from strategies.settings import Settings

LEVELS = (Level("raw", 1.0), Level("half", 2.0, 0.9), Level("thin", 20.0, 0.5))


def rules_of(policy: str = "network_aware", **chosen: Any) -> Rules:
    return lineup.rules(policy, Settings(**{"cohort": 4, **chosen}), model_values=1000, levels=LEVELS)


def reading(order: int, *, norm: float | None = 1.0, loss: float | None = 1.0, elapsed_s: float = 3.0) -> Reading:
    return Reading(
        blob_bytes=500,
        digest=f"{order:064x}",
        norm=norm,
        elapsed_s=elapsed_s,
        bytes_down=4000.0,
        bytes_up=600.0,
        rtt_s=0.1,
        download_s=elapsed_s / 3,
        upload_s=elapsed_s / 3,
        compute_s=elapsed_s / 4,
        samples=64.0,
        loss=loss,
        squared_loss=None if loss is None else loss**2,
    )


class Recorded:
    """A machine whose events and commands are kept, as lines too."""

    def __init__(self, rules: Rules) -> None:
        self.state = State(rules)
        self.commands: list[Command] = []
        line, self._head = rules_line(0, rules, "")
        self.lines = [line]

    def tell(self, event: Event) -> list[Command]:
        _, commands = step(self.state, event)
        line, self._head = event_line(len(self.lines), event, commands, self._head)
        self.lines.append(line)
        self.commands += commands
        return commands


class Machine(RuleBasedStateMachine):
    """Nodes come, answer, fail, lie and leave in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.number = 0
        self.version = 0
        self.opened: dict[int, int] = {}  # order -> row
        self.counted: list[int] = []
        self.run: Recorded | None = None

    @rule(policy=st.sampled_from(sorted(POLICIES)), mode=st.sampled_from(["sync", "async"]), cohort=st.integers(1, 6))
    @precondition(lambda self: self.run is None)
    def begin(self, policy: str, mode: str, cohort: int) -> None:
        self.run = Recorded(rules_of(policy, mode=mode, cohort=cohort))
        self.tell(Published(0.0, "00" * 32, 1.0))
        for index in range(3):
            self.tell(Joined(0.0, f"node-{index}", 50 * (index + 1)))

    def tell(self, event: Event) -> None:
        assert self.run is not None
        closed = False
        for command in self.run.tell(event):
            match command:
                case SendOrder():
                    self.opened[command.order] = command.row
                    assert self.run.state.fleet.present[command.row]
                case AddUpdate():
                    self.counted.append(command.order)
                case RollBack(version=version) | StepModel(version=version):
                    self.version = version
                case CloseRound(weights=weights):
                    closed = True
                    assert not weights or sum(weights) == pytest.approx(1.0)
        if closed:
            self.check_round()

    def check_round(self) -> None:
        """What holds whenever a round is closed: balanced books, and a state that survives JSON."""
        state = self.state
        assert abs(float((state.accounts.due - state.accounts.paid).sum())) < 1e-6
        saved = json.loads(json.dumps(state.json(), allow_nan=False))
        restored = State.restored(state.rules, saved)
        assert json.loads(json.dumps(restored.json())) == saved

    @property
    def state(self) -> State:
        assert self.run is not None
        return self.run.state

    def in_phase(self, phase: Phase | None) -> bool:
        if self.run is None:
            return False
        return (self.state.open.phase if self.state.open else None) == phase

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
        self.number += 1
        self.tell(RoundDue(self.now_s, self.number))

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
        self.tell(Answered(self.now_s, order, said, fault and Fault(fault, "so it is said")))

    @rule(data=st.data())
    @precondition(lambda self: self.in_phase(Phase.COLLECTING) and self.opened)
    def answers_once_more(self, data: st.DataObject) -> None:
        order = data.draw(st.sampled_from(sorted(self.opened)))
        if order not in self.state.orders:
            assert self.run is not None
            (refused,) = self.run.tell(Answered(self.now_s, order, reading(order)))
            assert isinstance(refused, Refuse) and refused.reason is Reason.DUPLICATE

    @rule(data=st.data())
    @precondition(lambda self: self.in_phase(Phase.COLLECTING) and self.state.orders)
    def fails(self, data: st.DataObject) -> None:
        self.tell(Failed(self.now_s, data.draw(st.sampled_from(sorted(self.state.orders))), "gone"))

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
            self.tell(Published(self.now_s, f"{self.version:064x}", norm))

    @rule(loss=st.one_of(st.none(), st.floats(0.0, 1e9)))
    @precondition(lambda self: self.in_phase(None) and self.number)
    def is_evaluated(self, loss: float | None) -> None:
        self.tell(Evaluated(self.now_s, loss))

    @rule(in_flight=st.booleans(), model_lost=st.booleans())
    @precondition(lambda self: self.in_phase(None) and self.number)
    def server_starts_again(self, in_flight: bool, model_lost: bool) -> None:
        self.run.state = State.restored(self.state.rules, json.loads(json.dumps(self.state.json())))
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


def played(policy: str = "network_aware", *, nodes: int = 8, rounds: int = 6, **chosen: Any) -> Recorded:
    """A run whose nodes answer one after the other."""
    run = Recorded(rules_of(policy, **chosen))
    run.tell(Published(0.0, "00" * 32, 1.0))
    for index in range(nodes):
        run.tell(Joined(0.0, f"node-{index}", 100 + index))
    now_s = 0.0
    for number in range(1, rounds + 1):
        due = run.tell(RoundDue(now_s, number))
        sent = tuple(command.order for command in due if isinstance(command, SendOrder))
        run.tell(Sent(now_s, sent, (4000,) * len(sent)))
        while run.state.open is not None and run.state.open.wanted and run.state.orders:
            order = min(run.state.orders)
            took_s = 1.0 + run.state.orders[order].row % 5
            now_s += took_s / 4
            run.tell(Answered(now_s, order, reading(order, elapsed_s=took_s, loss=1.0 / number)))
        run.tell(Ended(now_s, () if run.state.rules.settings.keep_late else tuple(run.state.orders)))
        if run.state.open is not None:
            run.tell(Published(now_s, f"{number:064x}", 1.0))
        run.tell(Evaluated(now_s, 1.0 / number))
    return run


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_folding_the_log_of_a_run_gives_every_command_and_the_state_again(policy: str, mode: str) -> None:
    run = played(policy, mode=mode)
    again = replay(run.lines)
    assert again.difference is None and again.broken is None and again.rounds == 6
    assert again.state is not None and again.state.json() == run.state.json()
    assert again.commands == len(run.commands)


def test_a_replay_stops_where_it_is_told_to() -> None:
    run = played()
    upto = replay(run.lines, upto=2)
    assert upto.rounds == 2 and upto.state is not None and upto.state.round == 2
    assert 0 < upto.events < replay(run.lines).events


def altered(lines: list[bytes], kind: str, old: str, new: str) -> tuple[list[bytes], int]:
    """The lines with one number of the third event of a kind changed by hand, and which line that is."""
    where = [i for i, line in enumerate(lines) if f'"kind":"{kind}"}},"commands"'.encode() in line][2]
    changed = lines[where].replace(old.encode(), new.encode(), 1)
    assert changed != lines[where]
    return [*lines[:where], changed, *lines[where + 1 :]], where


def test_a_number_altered_by_hand_is_found_by_the_first_command_that_follows_from_it() -> None:
    lines, where = altered(played().lines, "answered", '"norm":1.0', '"norm":1e9')
    found = replay(lines)
    assert found.broken == where and found.difference is not None and found.difference.line >= where
    assert "is recorded as" in str(found.difference)


def test_an_altered_number_from_which_nothing_follows_is_found_by_its_hash() -> None:
    lines, where = altered(played().lines, "evaluated", '"loss":0.33', '"loss":0.34')
    found = replay(lines)
    assert found.difference is None and found.broken == where


def test_an_altered_command_is_named_with_both_values() -> None:
    lines = played().lines
    where = next(i for i, line in enumerate(lines) if b'"kind":"add"' in line)
    lines[where] = lines[where].replace(b'"staleness":0', b'"staleness":1')
    difference = replay(lines).difference
    assert difference is not None and (difference.line, difference.recorded, difference.folded) == (where, 1, 0)
    assert difference.place == "commands[0].staleness"


def test_reals_may_differ_by_what_processors_differ_and_the_recorded_one_is_carried_on() -> None:
    assert first_gap([{"weight": 0.1}], [{"weight": 0.1 + 1e-12}]) is None
    assert first_gap([{"weight": 0.1}], [{"weight": 0.1 + 1e-6}]) is not None
    assert first_gap([1, "a"], [1, "b"]) == ("commands[1]", "a", "b")
    assert first_gap([1], [1.0]) is not None and first_gap([True], [1]) is not None
    run = played(rounds=1)
    where = next(i for i, line in enumerate(run.lines) if b'"kind":"add"' in line)
    weight = json.loads(run.lines[where])["commands"][0]["weight"]
    run.lines[where] = run.lines[where].replace(repr(weight).encode(), repr(weight + 1e-13).encode())
    found = replay(run.lines)
    assert found.difference is None and found.state is not None
    assert found.state.accounts.paid.tolist() != run.state.accounts.paid.tolist()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'{"n":0}',
        b'{"n":1,"event":{"kind":"joined"},"commands":[],"hash":"x"}',
        b"\xff\xfe",
    ],
)
def test_what_is_no_line_of_a_log_is_refused(text: bytes) -> None:
    with pytest.raises(BadLine):
        replay([text + b"\n"])


def test_a_last_line_that_was_cut_off_is_left_out() -> None:
    lines = played(rounds=2).lines
    assert replay([*lines, lines[-1][:20]]).left_over == 20


def test_an_event_out_of_its_order_is_refused_and_changes_nothing() -> None:
    run = played(rounds=2)
    before = run.state.json()
    for event in (Ended(1.0), Answered(1.0, 0, reading(0)), Failed(1.0, 0, "x"), Diverged(1.0), Sent(1.0, (), ())):
        with pytest.raises(OutOfOrder):
            step(run.state, event)
    assert run.state.json() == before


def test_a_log_goes_on_after_a_mark_and_what_came_after_it_is_cut_off(tmp_path: Path) -> None:
    path, run = tmp_path / "events.jsonl", played(rounds=1)
    log = EventLog(path, run.state.rules)
    log.append(Published(0.0, "00" * 32, 1.0), [])
    mark = log.sync()
    log.append(Joined(0.0, "node-lost", 1), [])
    log.sync()
    log.close()
    again = EventLog(path, run.state.rules, after=mark)
    again.append(Joined(0.0, "node-0", 1), [])
    again.sync()
    again.close()
    found = replay(path.read_bytes().splitlines(keepends=True))
    assert found.broken is None and found.lines == 4
    assert found.state is not None and found.state.fleet.names == ["node-0"]
    path.write_bytes(path.read_bytes()[: mark.bytes - 5])
    with pytest.raises(BadLine, match="does not hold the 2 lines"):
        EventLog(path, run.state.rules, after=mark)


def test_a_log_of_another_run_is_not_gone_on_with(tmp_path: Path) -> None:
    path, run = tmp_path / "events.jsonl", played(rounds=1)
    log = EventLog(path, run.state.rules)
    log.append(Published(0.0, "00" * 32, 1.0), [])
    mark = log.sync()
    log.close()
    with pytest.raises(BadLine):
        EventLog(path, run.state.rules, after=Mark(mark.lines, mark.bytes, "0" * 64))


def test_every_line_says_no_more_than_what_happened() -> None:
    run = played(mode="async")
    assert as_json(run.commands) and all(b"\n" not in line[:-1] for line in run.lines)
    assert sum(map(len, run.lines)) / len(run.lines) < 1200
