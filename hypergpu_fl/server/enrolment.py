"""Keeps out nodes that would train something else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from hypergpu_fl.task.loading import CONSTANTS
from strategies.errors import Reason, Refused
from strategies.wire import Hello

ROUNDED: Final = 1e-4  # of a buffer's moments: what processors of different makes disagree by
SHOWN: Final = 120  # characters of a value; of a long one, those around the first difference


class SameTask:
    """Refuses nodes whose task has another identity than the server's, or whose share is none of its ``shares``.

    See `hypergpu_fl.task.full_identity`.
    """

    def __init__(self, identity: Mapping[str, str], *, shares: int) -> None:
        self._identity, self._shares = identity, shares

    def vet(self, hello: Hello) -> None:
        """Raise ``Refused`` for a node whose task is another, or that has a share of other data."""
        if hello.partition >= self._shares:
            raise Refused(
                Reason.OTHER_TASK,
                f"there is no share {hello.partition}: training.num_nodes = {self._shares}; where nodes have left, "
                "`hypergpu node provision --close-gaps` gives theirs to others",
            )
        if found := differences(self._identity, hello.identity):
            raise Refused(Reason.OTHER_TASK, found)


def differences(
    ours: Mapping[str, str], theirs: Mapping[str, str], *, here: str = "at the server", there: str = "there"
) -> str:
    """What differs between two identities of a task, both sides named; empty if nothing does."""
    lines = []
    for name in [*ours, *(name for name in theirs if name not in ours)]:
        if ours.get(name) != theirs.get(name) and not (name == CONSTANTS and _alike(ours, theirs)):
            left, right = _shown(theirs.get(name), ours.get(name)), _shown(ours.get(name), theirs.get(name))
            lines.append(f"{name[:SHOWN]}: {left} {there}, {right} {here}")
    return "; ".join(lines)


def _alike(ours: Mapping[str, str], theirs: Mapping[str, str]) -> bool:
    """Whether the constant buffers differ by no more than processors round differently."""
    pairs = [side.get(CONSTANTS, "").split() for side in (ours, theirs)]
    return len(pairs[0]) == len(pairs[1]) and all(map(_close, *pairs))


def _close(one: str, other: str) -> bool:
    try:
        return one == other or abs(float(one) - float(other)) <= ROUNDED
    except ValueError:
        return False


def _shown(value: str | None, other: str | None) -> str:
    if value is None:
        return "nothing"
    if len(value) <= SHOWN:
        return repr(value)
    pairs = enumerate(zip(value, other or "", strict=False))
    start = max(0, next((i for i, (a, b) in pairs if a != b), 0) - SHOWN // 4)
    return f"{'...' if start else ''}{value[start : start + SHOWN]!r}..."
