"""The hook that keeps out nodes which would train something else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from flwr.app import RecordDict

from strategies import wire
from strategies.errors import Reason, Refused
from strategies.round import RoundHook

SHOWN: Final = 120  # characters of a value; of a long one, those around the first difference


class SameTask(RoundHook):
    """Refuses nodes whose task has another identity than the server's; see `hypergpu_fl.task.full_identity`."""

    def __init__(self, identity: Mapping[str, str]) -> None:
        self._identity = identity

    def vet(self, answer: RecordDict) -> None:
        """See ``RoundHook.vet``."""
        record = answer.config_records.get(wire.IDENTITY)
        theirs = {name: value for name, value in record.items() if isinstance(value, str)} if record else {}
        if found := differences(self._identity, theirs):
            raise Refused(Reason.OTHER_TASK, found)


def differences(ours: Mapping[str, str], theirs: Mapping[str, str]) -> str:
    """What differs between server and node, both sides named; empty if nothing does."""
    lines = []
    for name in [*ours, *(name for name in theirs if name not in ours)]:
        if ours.get(name) != theirs.get(name):
            left, right = _shown(theirs.get(name), ours.get(name)), _shown(ours.get(name), theirs.get(name))
            lines.append(f"{name[:SHOWN]}: {left} there, {right} at the server")
    return "; ".join(lines)


def _shown(value: str | None, other: str | None) -> str:
    if value is None:
        return "nothing"
    if len(value) <= SHOWN:
        return repr(value)
    pairs = enumerate(zip(value, other or "", strict=False))
    start = max(0, next((i for i, (a, b) in pairs if a != b), 0) - SHOWN // 4)
    return f"{'...' if start else ''}{value[start : start + SHOWN]!r}..."
