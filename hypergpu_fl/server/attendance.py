"""Tells whoever follows a run which nodes joined it, left it or came back while it goes on."""

from __future__ import annotations

from collections.abc import Mapping

from loguru import logger

from hypergpu_fl.output import by_number
from hypergpu_fl.task.folder import listed
from strategies.prose import amount


class Attendance:
    """Logs what has changed from one round to the next; nothing in a process's first round, in which all nodes join."""

    def __init__(self) -> None:
        self._before: dict[str, bool] | None = None

    def closed(self, connected: Mapping[str, bool]) -> None:
        """Compare with the round before: whether each node known so far, by name, was connected in this round."""
        before, self._before = self._before, dict(connected)
        if before is None:
            return
        joined = [name for name in connected if name not in before]
        left = [name for name, there in connected.items() if not there and before.get(name)]
        back = [name for name, there in connected.items() if there and not before.get(name, True)]
        for names, what in ((joined, "joined"), (left, "left"), (back, "came back")):
            if names:
                logger.info(
                    "{} {}; {} connected",
                    listed(sorted(names, key=by_number)),
                    what,
                    amount(sum(connected.values()), "node"),
                )
