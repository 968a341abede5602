"""Extracts the cause of a failure, and its remedy, from tracebacks in a log or in an error that Flower hands on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

# A traceback's first line: Python's, or Ray's for what was raised in an actor.
_HEADER: Final = re.compile(r"( *)(?:Traceback \(most recent call last\)|(?:<class '[^']*'>:<')?ray::\S+ \(pid=)")
_EXCEPTION: Final = re.compile(r"((?:\w+\.)*)([A-Z]\w*)(?:: (.*))?")
_CHAINED: Final = ("direct cause of the following exception", "another exception occurred")
_ACTOR: Final = re.compile(r"^\(\w+ pid=\d+\) ")  # prefix of each line that a Ray actor prints
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")
_REASON: Final = re.compile(r"<class '([^']*)'>:<'(.*)'>", re.DOTALL)  # Flower's form for a ClientApp that raised
_REMEDY: Final = "remedy: "
_OURS: Final = ("hypergpu_fl.", "strategies.")
_ACTOR_DIED: Final = "The actor died unexpectedly before finishing this task."  # Ray's words, with half a page below
_DIED: Final = "the node's process died: killed, as where memory runs out, or ended by the task's own code"
_LONGEST: Final = 100_000  # characters of an error reply that are examined

RootCause = tuple[str, str]


def root_cause(log: str) -> RootCause | None:
    """Cause and remedy of the last chain of tracebacks in ``log``; the remedy is empty if it has none.

    Python prints a chain of exceptions oldest first. The newest exception of ours says what the failure means for the
    run and what to do. If none is ours, the oldest counts, since those that Flower wraps around it only say that
    something failed.
    """
    lines = [_ACTOR.sub("", line) for line in without_colours(log).splitlines()]
    chain: list[tuple[bool, RootCause]] = []
    for i, line in enumerate(lines):
        if header := _HEADER.match(line):
            goes_on = any(link in before for before in lines[max(0, i - 2) : i] for link in _CHAINED)
            raised = _raised(lines, i + 1, header[1])
            chain = [*(chain if goes_on else []), *([raised] if raised else [])]
    ours = [fault for is_ours, fault in chain if is_ours]
    return ours[-1] if ours else chain[0][1] if chain else None


def without_colours(text: str) -> str:
    """``text`` without the escapes that colour it: what Flower's programs print is coloured even for a pipe."""
    return _COLOUR.sub("", text)


def told(reason: str, longest: int) -> str:
    """An error reply's reason on one line: what went wrong on the node, and the remedy that the node names."""
    reason = reason[:_LONGEST].strip()
    if _ACTOR_DIED in reason:
        return _DIED[:longest]
    cause, remedy = root_cause(reason) or _wrapped(reason)
    return " ".join(f"{cause}; {remedy}".strip("; \n").split())[:longest]


def _wrapped(reason: str) -> RootCause:
    kind, text = match.groups() if (match := _REASON.fullmatch(reason)) else ("", reason)
    cause, _, remedy = text.partition(f"\n{_REMEDY}")
    name = "" if kind.startswith(_OURS) else kind.rpartition(".")[2]
    return f"{name}: {cause}" if name else cause, remedy


def _raised(lines: Sequence[str], first_frame: int, margin: str) -> tuple[bool, RootCause] | None:
    """The exception below a traceback's frames, and whether it is one of ours.

    Frames are indented; in a log the whole traceback is indented by ``margin``.
    """
    below = next((i for i in range(first_frame, len(lines)) if not lines[i].startswith(f"{margin} ")), len(lines))
    raised, note, *_ = [line.removeprefix(margin) for line in lines[below : below + 2]] + ["", ""]
    match = _EXCEPTION.fullmatch(raised)
    if match is None:
        return None
    module, name, text = match.groups()
    ours = module.startswith(_OURS) and bool(text)
    remedy = note.removeprefix(_REMEDY) if note.startswith(_REMEDY) else ""
    return ours, (text if ours else f"{name}: {text}" if text else name, remedy)
