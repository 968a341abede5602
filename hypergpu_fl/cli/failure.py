"""The cause of a failure, and its remedy, out of the tracebacks in a log."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from hypergpu_fl.errors import Fault

_TRACEBACK: Final = "Traceback (most recent call last)"
_EXCEPTION: Final = re.compile(r"((?:\w+\.)*)([A-Z]\w*)(?:: (.*))?")
_CHAINED: Final = ("direct cause of the following exception", "another exception occurred")
_RAY: Final = re.compile(r"^\(\w+ pid=\d+\) ")  # before each line that an actor prints
_REMEDY: Final = "remedy: "
_OURS: Final = ("hypergpu_fl.", "strategies.")


def root_cause(log: str) -> Fault | None:
    """The fault behind the last chain of tracebacks in ``log``, with its remedy if it has one.

    Python prints a chain of exceptions oldest first. The newest of ours says what it means for the run, and what to do;
    without one the oldest counts, since those that Flower wraps around it only say that something failed.
    """
    lines = [_RAY.sub("", line) for line in log.splitlines()]
    chain: list[tuple[bool, Fault]] = []
    for i, line in enumerate(lines):
        if line.startswith(_TRACEBACK):
            goes_on = any(link in before for before in lines[max(0, i - 2) : i] for link in _CHAINED)
            raised = _raised(lines, i + 1)
            chain = [*(chain if goes_on else []), *([raised] if raised else [])]
    ours = [fault for is_ours, fault in chain if is_ours]
    return ours[-1] if ours else chain[0][1] if chain else None


def _raised(lines: Sequence[str], first_frame: int) -> tuple[bool, Fault] | None:
    """The exception below a traceback's frames, which are indented, and whether it is one of ours."""
    below = next((i for i in range(first_frame, len(lines)) if not lines[i].startswith(" ")), len(lines))
    match = _EXCEPTION.fullmatch(lines[below]) if below < len(lines) else None
    if match is None:
        return None
    module, name, text = match.groups()
    ours = module.startswith(_OURS) and bool(text)
    note = lines[below + 1] if below + 1 < len(lines) else ""
    remedy = note.removeprefix(_REMEDY) if note.startswith(_REMEDY) else ""
    return ours, Fault(text if ours else f"{name}: {text}" if text else name, remedy)
