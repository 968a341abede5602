"""Replays a run's log: decides every command anew and compares it with the one that was recorded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from typing import Any, Final

import numpy as np

from strategies.errors import BadLine, StrategyError
from strategies.round.events import RoundDue
from strategies.round.lines import as_json, read_line
from strategies.round.rules import Rules
from strategies.round.state import State
from strategies.round.step import step
from strategies.round.story import Story

LARGEST_GAP = 1e-9  # between reals, relative or absolute: exp and log differ between processors
SHOWN: Final = 300  # characters of a value
NO_VALUES = (StrategyError, LookupError, ValueError, TypeError, ArithmeticError)  # what impossible numbers raise


class _Nothing:
    """Stands for a command that only one side has."""

    def __repr__(self) -> str:
        return "nothing"


_NOTHING: Final = _Nothing()


@dataclass(frozen=True, slots=True)
class Difference:
    """The first thing in a log that the rules do not give for the events before it.

    Either a command, or a value in one: ``place`` says where in the line; ``recorded`` and ``folded`` are both values.
    Or an event that cannot happen at this point: then ``place`` is empty, and ``folded`` is the reason.
    """

    line: int
    round: int
    event: str
    place: str
    recorded: Any
    folded: Any

    def __str__(self) -> str:
        if not self.place:
            return f"line {self.line} (round {self.round}): {self.event!r} cannot happen here: {self.folded}"
        where = f"line {self.line} (round {self.round}, {self.event}): {self.place}"
        return f"{where} is recorded as {_shown(self.recorded)}, the rules give {_shown(self.folded)}"


@dataclass(frozen=True, slots=True)
class RuleChange:
    """A rule that another one took the place of between two rounds, as when a run is resumed with other settings."""

    from_round: int
    rule: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.rule} {_shown(self.before)} -> {_shown(self.after)}"


@dataclass
class Replay:
    """The result of replaying a log.

    ``broken`` is the first line whose hash does not fit, ``difference`` the first command that differs. ``left_over``
    are the bytes of a last line that was cut off in writing. ``changes`` are the rules that changed on the way: each
    round is decided again by the rules of its time. ``state`` is the state at the end.
    """

    lines: int = 0
    events: int = 0
    commands: int = 0
    rounds: int = 0
    head: str = ""
    left_over: int = 0
    broken: int | None = None
    difference: Difference | None = None
    changes: list[RuleChange] = field(default_factory=list)
    state: State | None = None


def replay(lines: Iterable[bytes], *, upto: int | None = None, story: Story | None = None) -> Replay:
    """Replay a log, up to the end of round ``upto`` if given, or to the first command that differs.

    Integers, choices and order must be equal. Reals may differ by ``LARGEST_GAP``; the recorded one is then kept.

    Raises
    ------
    BadLine
        If something is no line of a log, lines are missing, or the rules are not of this release.
    """
    with np.errstate(all="ignore"):  # numbers that no run has are told by what follows from them
        return _folded(iter(lines), upto, story)


def _folded(lines: Iterator[bytes], upto: int | None, story: Story | None) -> Replay:
    done = Replay()
    for text in lines:
        if not text.endswith(b"\n"):
            if next(lines, None) is not None:
                raise BadLine(f"line {done.lines} is longer than {len(text):,} bytes")
            done.left_over = len(text)
            break
        line = _numbered(text, done)
        if isinstance(line.content, RoundDue) and upto is not None and line.content.number > upto:
            break
        if not line.whole and done.broken is None:
            done.broken = line.number
        done.lines, done.head = done.lines + 1, line.hash
        if isinstance(line.content, Rules):
            done.state = _under(line.content, done, line.number)
            continue
        if done.state is None:
            raise BadLine(f"line {line.number}: an event comes before the rules")
        state, event = done.state, line.content
        try:
            if story is not None:
                story.before(state, event)
            _, folded = step(state, event)
            recomputed = as_json(folded)
        except NO_VALUES as error:
            done.difference = Difference(line.number, state.round, event.kind, "", event.kind, _why(error))
            break
        if (gap := first_gap(line.commands, recomputed)) is not None:
            done.difference = Difference(line.number, state.round, event.kind, *gap)
            break
        _carry_on(state, line.commands)
        if story is not None:
            story.after(state, event, folded)
        done.events, done.commands = done.events + 1, done.commands + len(folded)
        done.rounds = state.round if state.open is None else state.round - 1
    return done


def first_gap(recorded: Any, folded: Any, place: str = "commands") -> tuple[str, Any, Any] | None:
    """The first place where two values differ, and both values; reals may differ by ``LARGEST_GAP``."""
    if isinstance(recorded, float) and isinstance(folded, float):
        close = abs(recorded - folded) <= LARGEST_GAP * max(1.0, abs(folded))  # to an infinite one nothing is
        return None if close else (place, recorded, folded)
    if isinstance(recorded, list) and isinstance(folded, list):
        for index, (one, other) in enumerate(zip_longest(recorded, folded, fillvalue=_NOTHING)):
            if gap := first_gap(one, other, f"{place}[{index}]"):
                return gap
        return None
    if isinstance(recorded, dict) and isinstance(folded, dict) and recorded.keys() == folded.keys():
        for key in folded:
            if gap := first_gap(recorded[key], folded[key], f"{place}.{key}"):
                return gap
        return None
    return None if type(recorded) is type(folded) and recorded == folded else (place, recorded, folded)


def _numbered(text: bytes, done: Replay) -> Any:
    try:
        line = read_line(text.rstrip(b"\n"), done.head)
    except BadLine as error:
        raise BadLine(f"line {done.lines}: {error}") from error
    if line.number != done.lines:
        raise BadLine(f"line {done.lines} is numbered {line.number}: lines are missing, or stand in another order")
    return line


def _under(rules: Rules, done: Replay, line: int) -> State:
    """A new state under these rules, or the one there is, which goes on under them."""
    state = done.state
    try:
        fresh = State(rules)
    except NO_VALUES as error:
        raise BadLine(f"line {line}: these rules are not of this release: {error}") from error
    if state is None:
        return fresh
    if state.open is not None:
        raise BadLine(f"line {line}: the rules change while round {state.open.round} is open")
    before, after = _named(state.rules), _named(rules)
    done.changes += [
        RuleChange(state.round + 1, name, before[name], after[name]) for name in after if before[name] != after[name]
    ]
    state.rules = rules
    return state


def _why(error: Exception) -> str:
    """Why an event cannot happen; an error that is not ours says little without its kind, as ``KeyError: 7``."""
    return (str(error) if isinstance(error, StrategyError) else f"{type(error).__name__}: {error}")[:SHOWN]


def _named(rules: Rules) -> dict[str, Any]:
    """Every rule by its name, the settings among them, as JSON-able values."""
    named = asdict(rules)
    settings: dict[str, Any] = named.pop("settings")
    return named | settings | {"session": rules.settings.session.hex()}


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} ..."


def _carry_on(state: State, recorded: list[Any]) -> None:
    """Adopt the one recorded real on which later decisions depend: the weight of the update just added."""
    for command in recorded:
        if command["kind"] == "add" and state.open is not None:
            state.open.weights[-1] = command["weight"]
