"""Keeps out nodes that would train something else."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from hypergpu_fl.task.layers import LAYERS, comparable
from hypergpu_fl.task.loading import CONSTANTS
from hypergpu_fl.task.source import CODE
from strategies.errors import Reason, Refused
from strategies.wire import Hello

ROUNDED: Final = 1e-4  # of a buffer's moments: what processors of different makes disagree by
MODULES: Final = 5  # named of those that differ
SHOWN: Final = 120  # characters of a value; of a long one, those around the first difference


class SameTask:
    """Refuses nodes whose task has another identity than the server's, or whose share is none of its ``shares``.

    See `hypergpu_fl.task.hello_identity`. A node may have modules that the server has not, such as what reads its own
    data, and others by the names in ``sites_own``.
    """

    def __init__(self, identity: Mapping[str, str], *, shares: int, sites_own: Collection[str] = ()) -> None:
        self._code = _modules(identity)
        self._identity = identity
        self._shares, self._sites_own = shares, tuple(f"{name}." for name in sites_own)

    def vet(self, hello: Hello) -> None:
        """Raise ``Refused`` for a node whose task is another, or that has a share of other data."""
        if hello.partition >= self._shares:
            raise Refused(
                Reason.OTHER_TASK,
                f"there is no share {hello.partition}: training.num_nodes = {self._shares}; where nodes have left, "
                "`hypergpu node provision --close-gaps` gives theirs to others",
            )
        sides = (self._identity, hello.identity)
        named = ({name: text for name, text in side.items() if name not in (CODE, LAYERS)} for side in sides)
        layers = comparable(*(side.get(LAYERS, "") for side in sides))
        found = differences(*named), differences(*layers), self._other_code(_modules(hello.identity))
        if any(found):
            raise Refused(Reason.OTHER_TASK, "; ".join(filter(None, found)))

    def _other_code(self, theirs: Mapping[str, str]) -> str:
        other = [
            name
            for name, digest in self._code.items()
            if digest != theirs.get(name) and not f"{name}.".startswith(self._sites_own)
        ]
        if not other:
            return ""
        shown, more = other[:MODULES], len(other) - MODULES
        pairs = ({f"code of {name}": side[name] for name in shown if name in side} for side in (self._code, theirs))
        return (
            f"{differences(*pairs)}{f' and {more} more' if more > 0 else ''} (bring the same files there; "
            "site_modules of the task names those that each site writes itself)"
        )


def _modules(identity: Mapping[str, str]) -> dict[str, str]:
    """Digest by module."""
    return dict(each.rpartition(" ")[::2] for each in identity.get(CODE, "").split(", ") if each)


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
