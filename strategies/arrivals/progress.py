"""How far an exchange with many nodes has got, for whoever waits for it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

log = logging.getLogger(__name__)

EVERY_S: Final = 5.0  # of wall time; an exchange that takes less says nothing


class Progress:
    """Says it every ``EVERY_S`` seconds.

    Parameters
    ----------
    what : str
        With places for how many and of how many, such as ``"%d of %d replies have come"``.
    total : int
        How many there are to be.
    now_s : Callable
        The clock.
    """

    def __init__(self, what: str, total: int, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._total = total
        self._now_s = now_s
        self._said_s = now_s()

    def reached(self, count: int) -> None:
        """Say it if it is time."""
        if self._now_s() - self._said_s >= EVERY_S:
            self._said_s = self._now_s()
            log.info(self._what, count, self._total)
