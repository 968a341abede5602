"""The round as a machine: an event goes in, commands come out. No clock, no message and no vector.

Randomness comes from the seed, the round's number and how often the round has chosen. Time comes with the events.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from strategies.errors import FOR_CAUSE, OutOfOrder, Reason, Refused
from strategies.fleet import health
from strategies.round.choosing import begin, planned, refill
from strategies.round.commands import (
    CloseRound,
    Command,
    Exclude,
    KeepBest,
    MeasureSuspects,
    Readmit,
    Refuse,
    RollBack,
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
    Resumed,
    Returned,
    RoundDue,
    Sent,
)
from strategies.round.explosion import culprits
from strategies.round.judging import judge
from strategies.round.state import OpenOrder, OpenRound, Phase, State


def step(state: State, event: Event) -> tuple[State, list[Command]]:
    """Take in one event. ``state`` is changed in place and returned, since a copy would cost more than the step.

    Raises
    ------
    OutOfOrder
        For an event that cannot happen now, such as a reply while no round is open. The state is then unchanged.
    """
    return state, _HANDLERS[type(event)](state, event)


def _joined(state: State, event: Joined) -> list[Command]:
    fleet = state.fleet
    if event.name in fleet.row_of:
        row = fleet.row_of[event.name]
        health.came(fleet, row)
    else:
        row = fleet.enrol(event.name, examples=event.examples, sample_s=fleet.prior_sample_s)
        fleet.overhead_s[row] = state.rules.settings.overhead_s
        if state.open is not None and state.open.plan is not None:
            state.open.plan = planned(state)  # it may be given work in this same round
    return []


def _left(state: State, event: Left) -> list[Command]:
    health.left(state.fleet, _known(state, event, event.rows))
    return []


def _returned(state: State, event: Returned) -> list[Command]:
    health.returned(state.fleet, _known(state, event, event.rows))
    return []


def _deserted(state: State, event: Deserted) -> list[Command]:
    """If no other node is left, readmit the excluded ones."""
    return _readmitted(state, math.inf)


def _probed(state: State, event: Probed) -> list[Command]:
    _known(state, event, (event.row,))
    state.fleet.probe(event.row, event.sample, round=state.round)
    return []


def _due(state: State, event: RoundDue) -> list[Command]:
    if state.open is not None or not state.versions.model:
        raise OutOfOrder(f"round {event.number} is due, but {'another is open' if state.open else 'no model is there'}")
    if event.number <= state.round:
        raise OutOfOrder(f"round {event.number} is due, but round {state.round} is over")
    if not state.exploded:
        _sound(state)  # nobody measured the last version, so nothing speaks against its updates
    state.unmeasured = []
    state.round = event.number
    state.open = OpenRound(event.number, event.at_s, Phase.COLLECTING)
    exploded, state.exploded = state.exploded, False
    if exploded and (back := _rolled_back(state, state.open)):
        state.open.phase = Phase.RESTORING
        return back
    return begin(state, state.open, event.at_s)


def _sent(state: State, event: Sent) -> list[Command]:
    open_ = _open(state, event, Phase.COLLECTING)
    for number in event.orders:
        if number not in state.orders:
            raise OutOfOrder(f"order {number} is sent, but not open")
    for number, size in zip(event.orders, event.bytes, strict=True):
        row = state.orders[number].row
        open_.bytes_down += size
        if open_.plan is not None:
            open_.bytes_common += size - 4 * state.rules.model_values / open_.plan.ratio(row)
    return []


def _answered(state: State, event: Answered) -> list[Command]:
    open_, order = _open(state, event, Phase.COLLECTING), _taken(state, event.order)
    if order is None:
        return [_unknown(event.order)]
    why = None
    try:
        commands: list[Command] = [judge(state, open_, order, event)]
        open_.replies += 1
    except Refused as refusal:
        why = refusal
    except (ArithmeticError, ValueError) as error:  # one reply's numbers must not end a run
        why = Refused(Reason.MALFORMED, f"what it says cannot be computed with: {type(error).__name__}: {error}"[:500])
    if why is not None:
        open_.failed.add(order.row)  # a refused reply does not fill the quota
        commands = _refused(state, open_, event, order.row, why)
    return commands + refill(state, open_, event.at_s)


def _failed(state: State, event: Failed) -> list[Command]:
    open_, order = _open(state, event, Phase.COLLECTING), _taken(state, event.order)
    if order is None:
        return [_unknown(event.order)]
    open_.failed.add(order.row)
    state.fleet.held[order.row] = -1  # it may have lost the version that it held
    if event.left:  # it may work again once it is seen connected at the next round's start
        health.left(state.fleet, [order.row])
        refusal = Refused(Reason.LEFT, event.detail)  # a node that always leaves is excluded like one that always fails
        return _refused(state, open_, event, order.row, refusal) + refill(state, open_, event.at_s)
    health.silent(state.fleet, order.row, at_s=event.at_s, round=open_.round, round_s=state.usual_round_s(event.at_s))
    refusal = Refused(Reason.ERROR_REPLY, event.detail)
    return _refused(state, open_, event, order.row, refusal) + refill(state, open_, event.at_s)


def _ended(state: State, event: Ended) -> list[Command]:
    open_ = _open(state, event, Phase.COLLECTING)
    for number in event.given_up:
        _taken(state, number)
    open_.ended_s = event.at_s
    open_.weights = state.accounts.book(state.fleet, open_.added, open_.weights)
    open_.phase = Phase.STEPPING
    versions = state.versions
    if not open_.added:
        return _closed(state, open_)
    versions.good = versions.version
    open_.next_version = versions.version + 1
    return [StepModel(open_.next_version)]


def _diverged(state: State, event: Diverged) -> list[Command]:
    open_ = _open(state, event, Phase.STEPPING)
    state.unmeasured = list(open_.added)
    return [MeasureSuspects()]


def _published(state: State, event: Published) -> list[Command]:
    open_ = state.open
    if open_ is None:
        state.versions.published(state.versions.version, event.model, event.norm, event.sketch)
        return []
    if open_.phase is Phase.COLLECTING:
        raise OutOfOrder(f"a model was published while round {open_.round} collects replies")
    state.versions.published(open_.next_version, event.model, event.norm, event.sketch)
    if open_.phase is Phase.STEPPING:
        return _closed(state, open_)
    open_.phase = Phase.COLLECTING
    return begin(state, open_, event.at_s)


def _evaluated(state: State, event: Evaluated) -> list[Command]:
    held_out, versions = state.held_out, state.versions
    if not state.round:
        held_out.chance = event.loss
        return []
    if held_out.exploded(event.loss):
        state.exploded = True
        return [MeasureSuspects()] if state.unmeasured else []
    _sound(state)
    versions.back = False
    if held_out.sound(event.loss) or versions.best is None:
        versions.best = versions.version
        return [KeepBest(versions.version)]
    return []


def _measured(state: State, event: Measured) -> list[Command]:
    if not state.unmeasured:
        raise OutOfOrder("updates were measured, but no model has exploded")
    found = culprits(state.unmeasured, event.alone, event.without, state.held_out.most)
    state.unmeasured = []
    blamed = _blamed(state, found, event.at_s, by=health.exploded)
    if state.open is None:
        return blamed  # the next round begins with the roll-back
    state.open.stepped = False
    return blamed + (_rolled_back(state, state.open) or _closed(state, state.open))


def _resumed(state: State, event: Resumed) -> list[Command]:
    if state.open is not None:
        raise OutOfOrder(f"a run is resumed between two rounds; round {state.open.round} is open")
    health.unseen(state.fleet)
    if not event.in_flight:
        state.orders.clear()
        state.fleet.orders[:] = 0
    if event.model_lost:
        state.exploded = True
        state.versions.best = None  # its model may be the one that is lost
        state.fleet.held[:] = -1
    return []


_HANDLERS: dict[type, Callable[[State, Any], list[Command]]] = {
    Joined: _joined,
    Left: _left,
    Returned: _returned,
    Deserted: _deserted,
    Probed: _probed,
    RoundDue: _due,
    Sent: _sent,
    Answered: _answered,
    Failed: _failed,
    Ended: _ended,
    Diverged: _diverged,
    Published: _published,
    Evaluated: _evaluated,
    Measured: _measured,
    Resumed: _resumed,
}


def _known(state: State, event: Left | Returned | Probed, rows: tuple[int, ...]) -> tuple[int, ...]:
    """The rows, if they are of nodes that have joined."""
    if not all(0 <= row < len(state.fleet) for row in rows):
        raise OutOfOrder(f"{event.kind!r} names a node that has not joined")
    return rows


def _open(state: State, event: Event, phase: Phase) -> OpenRound:
    if state.open is None or state.open.phase is not phase:
        raise OutOfOrder(f"{event.kind!r} comes while no round is {phase}")
    return state.open


def _taken(state: State, number: int) -> OpenOrder | None:
    """Take an order out of the open ones; None if it is not open, as with a second answer."""
    order = state.orders.pop(number, None)
    if order is not None:
        state.fleet.orders[order.row] -= 1
    return order


def _unknown(number: int) -> Refuse:
    return Refuse(number, -1, Reason.DUPLICATE, f"order {number} is not open")


def _refused(state: State, open_: OpenRound, event: Answered | Failed, row: int, refusal: Refused) -> list[Command]:
    open_.refused.append(refusal.reason)
    commands: list[Command] = [Refuse(event.order, row, refusal.reason, refusal.detail)]
    by = health.wasted if refusal.reason in FOR_CAUSE else health.failed
    return commands + _blamed(state, [row], event.at_s, by=by)


def _blamed(state: State, rows: Sequence[int], at_s: float, *, by: Callable[..., float | None]) -> list[Command]:
    """Count a failure against each of these nodes, ``by`` its kind."""
    if not state.rules.settings.exclude_failing:
        return []
    until_s = {row: by(state.fleet, row, at_s=at_s) for row in rows}
    return [Exclude(row, until) for row, until in until_s.items() if until is not None]


def _readmitted(state: State, at_s: float) -> list[Command]:
    return [Readmit(row) for row in health.let_out(state.fleet, at_s=at_s).tolist()]


def _sound(state: State) -> None:
    """The updates in the latest version have counted, and did no harm."""
    for row in state.unmeasured:
        health.succeeded(state.fleet, row)
    state.unmeasured = []


def _rolled_back(state: State, open_: OpenRound) -> list[Command]:
    """Go back to a good version, if there is one. Updates against later versions are refused from now on."""
    state.exploded = False
    versions = state.versions
    open_.rolled_back = to = versions.way_back(spoiled=state.held_out.spoiled)
    if to is None:
        return []
    versions.disown(to)
    if to == versions.best:
        state.held_out.before = state.held_out.best
    open_.next_version = versions.version + 1
    return [RollBack(to, open_.next_version)]


def _closed(state: State, open_: OpenRound) -> list[Command]:
    state.selection.closed(
        state.fleet, round=open_.round, selected=_distinct(open_.selected), arrived=_distinct(open_.added)
    )
    if open_.selected:
        state.common_bytes = max(0.0, open_.bytes_common / len(open_.selected))
    if open_.added:
        state.round_s = max(0.0, open_.ended_s - open_.started_s)
    state.open, state.unmeasured = None, list(open_.added) if open_.stepped else []
    return [
        CloseRound(
            round=open_.round,
            started_s=open_.started_s,
            ended_s=open_.ended_s,
            selected=tuple(open_.selected),
            weights=tuple(open_.weights),
            late=open_.late,
            bytes_down=open_.bytes_down,
            bytes_up=open_.bytes_up,
            base_model=open_.base_model,
            model=state.versions.model,
            rolled_back=open_.rolled_back,
        ),
        *_readmitted(state, open_.ended_s),
    ]


def _distinct(rows: Sequence[int]) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.unique(np.asarray(rows, dtype=np.int64))


def finite(value: float) -> float | None:
    """``value``, or None if it is not finite, as events hold it."""
    return value if math.isfinite(value) else None
