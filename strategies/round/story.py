"""One node's part in a run: why it was given work or not, and what makes up the weight of its updates.

It is told while the run's log is replayed, from what the machine knew at each moment. Nothing here decides anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from strategies.errors import Reason
from strategies.fleet import Fleet, Floats
from strategies.prose import amount
from strategies.quantiles import median
from strategies.round.commands import AddUpdate, CloseRound, Command, Exclude, Open, Readmit, Refuse, SendOrder
from strategies.round.events import Answered, Event, Failed, Published, RoundDue
from strategies.round.rules import ORDERS_PER_NODE
from strategies.round.state import OpenRound, State
from strategies.selection.network_aware import passed_over, priority
from strategies.weighting import tilt


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened to the node: in which round, at which second of the run's clock, and what."""

    round: int
    at_s: float
    what: str


@dataclass(frozen=True, slots=True)
class _Before:
    """What an event may change and a reason needs: the last two only where a round may begin."""

    open: OpenRound | None
    owed: float
    idle: str
    urgency: Floats | None


class Story:
    """What a replay shows of the node called ``name``: ``before`` and ``after`` are called around every event."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.moments: list[Moment] = []
        self._before: _Before | None = None

    def before(self, state: State, event: Event) -> None:
        """Remember what the event may change."""
        row, fleet = state.fleet.row_of.get(self.name), state.fleet
        if row is None:
            self._before = None
            return
        begins = isinstance(event, RoundDue | Published)
        self._before = _Before(
            state.open,
            float(fleet.owed[row]),
            idle(state, row) if begins else "",
            priority(fleet, np.arange(len(fleet))) if begins else None,
        )

    def after(self, state: State, event: Event, commands: Sequence[Command]) -> None:
        """Tell what the event and its commands mean for the node."""
        known = self._before
        if known is None:
            if self.name in state.fleet.row_of:
                examples = int(state.fleet.claimed[state.fleet.row_of[self.name]])
                self._tell(state, event, f"joined, with {amount(examples, 'example')}")
            return
        row = state.fleet.row_of[self.name]
        for command in commands:
            said = self._said(state, row, command, known)
            if said and isinstance(command, SendOrder) and isinstance(event, Answered | Failed):
                said += f"; in mid-round: order {event.order} had ended, and the round waited for more updates"
            if said:
                self._tell(state, event, said)
        sent = [command.row for command in commands if isinstance(command, SendOrder)]
        if row not in sent and any(isinstance(command, Open) for command in commands):
            self._tell(state, event, f"not given work: {known.idle or _others(state, row, sent, known)}")

    def _tell(self, state: State, event: Event, what: str) -> None:
        self.moments.append(Moment(state.round, event.at_s, what))

    def _said(self, state: State, row: int, command: Command, known: _Before) -> str:
        if isinstance(command, SendOrder) and command.row == row:
            work = f"{amount(command.local_steps, 'step')} of {command.batch_size} at {command.codec}"
            return f"given order {command.order}: {work}{_owed(state, row)}"
        if isinstance(command, AddUpdate) and command.row == row:
            return f"order {command.order} weighs {command.weight:.4f}: {_weighed(state, row, command, known.owed)}"
        if isinstance(command, Refuse) and command.row == row:
            said = ": ".join(filter(None, [command.reason, command.detail]))
            return f"order {command.order} {'handed back' if command.reason == Reason.LEFT else 'refused'}: {said}"
        if isinstance(command, Exclude) and command.row == row:
            return f"excluded until {command.until_s:,.1f} s"
        if isinstance(command, Readmit) and command.row == row:
            return "asked who it is, for its exclusion is over"
        if isinstance(command, CloseRound) and known.open is not None and row in known.open.added:
            pairs = zip(known.open.added, command.weights, strict=True)
            share = sum(weight for added, weight in pairs if added == row)
            return f"makes up {share:.4f} of the round's mean{_owed(state, row, ' now')}"
        return ""


def idle(state: State, row: int) -> str:
    """Why the node may not be given work, whatever the policy; empty if it may."""
    fleet = state.fleet
    if fleet.excluded[row]:
        return f"excluded until {fleet.excluded_until_s[row]:,.1f} s"
    if fleet.on_probation[row]:
        return "it has not said again who it is"
    if not fleet.online[row]:
        return "not connected"
    if fleet.orders[row]:
        number, order = next((n, order) for n, order in state.orders.items() if order.row == row)
        return f"at work on order {number}, of round {order.round}"
    if fleet.held[row] >= state.versions.version:
        return f"its update to version {state.versions.version}, still the latest, has counted"
    return ""


def _others(state: State, row: int, sent: Sequence[int], known: _Before) -> str:
    """Why the policy preferred others; ``sent`` are the rows that were given work."""
    if not sent:
        return f"at work already: {amount(int(state.fleet.at_work.sum()), 'node')}, as many as may be"
    if state.rules.selection != "network_aware" or known.urgency is None:
        return _compared(state, row, sent)
    return passed_over(state.fleet, row, urgency=known.urgency, chosen=np.asarray(sent))


def _compared(state: State, row: int, sent: Sequence[int]) -> str:
    """How a node that was free compares with those that a policy of unknown reasons chose, in what policies go by."""
    fleet, chosen = state.fleet, np.unique(np.asarray(sent))
    free = fleet.available(orders=ORDERS_PER_NODE)
    free = np.union1d(free[fleet.held[free] < state.versions.version], chosen)
    known = {"examples": fleet.examples, "last loss": fleet.loss}
    if state.open is not None and state.open.plan is not None:
        known = {"seconds as planned": state.open.plan.predicted_s, **known}
    told = [f"policy {state.rules.selection!r} chose {chosen.size} of {amount(free.size, 'free node')}"]
    for what, column in known.items():
        own = f"{float(column[row]):.4g}" if np.isfinite(column[row]) else "unknown"
        theirs = column[chosen][np.isfinite(column[chosen])]
        if theirs.size:
            told.append(f"{what} {own}, theirs {float(theirs.min()):.4g} to {float(theirs.max()):.4g}")
    return "; ".join(told)


def _owed(state: State, row: int, when: str = "") -> str:
    """What a node is owed, for the policy that decides by it."""
    return f"; owed {state.fleet.owed[row]:.4f}{when}" if state.rules.books == "debts" else ""


def _weighed(state: State, row: int, command: AddUpdate, owed: float) -> str:
    """The parts of an update's weight, see ``strategies.weighting``."""
    fleet: Fleet = state.fleet
    age = f"{amount(command.staleness, 'version')} old"
    if state.rules.books != "debts":
        return f"by its {amount(int(fleet.examples[row]), 'example')}, {age}"
    reachable = fleet.reachable
    share = float(fleet.examples[row]) / max(1, int(fleet.examples[reachable].sum()))
    typical = median(fleet.quality[reachable]) if reachable.any() else float(fleet.quality[row])
    factor = tilt(float(fleet.quality[row]), typical, command.staleness)
    lift = command.weight / factor - owed - share
    return f"(owed {owed:.4f} + data share {share:.4f} + lift {lift:.4f}) x {factor:.2f} for its link, {age}"
