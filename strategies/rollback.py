"""When training has run away: the loss explodes, and the last good model is put back."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import numpy as np

HISTORY = 20
ENOUGH = 5  # losses before an explosion can be told from a start
LARGEST_Z = 6.0
LEAST_SIGMA = 0.25  # of log loss: below a factor of exp(6 / 4) = 4.5 nothing is called an explosion
MAD_TO_SIGMA = 1.4826  # of a normal distribution


class LossWatch:
    """Judges a series of losses by the robust z-score of their logarithms; good ones are remembered."""

    def __init__(self) -> None:
        self._logs: deque[float] = deque(maxlen=HISTORY)

    def exploded(self, loss: float) -> bool:
        """Whether ``loss`` is not finite, or its z-score, ``(x - median) / (1.4826 MAD)`` of logs, exceeds 6."""
        if not math.isfinite(loss):
            return True
        log_loss = math.log(max(loss, 1e-12))
        if len(self._logs) >= ENOUGH:
            median = float(np.median(self._logs))
            sigma = max(LEAST_SIGMA, MAD_TO_SIGMA * float(np.median(np.abs(np.asarray(self._logs) - median))))
            if (log_loss - median) / sigma > LARGEST_Z:
                return True
        self._logs.append(log_loss)
        return False

    def state(self) -> list[Any]:
        """The remembered logarithms."""
        return list(self._logs)

    def restore(self, state: list[Any]) -> None:
        """Inverse of ``state``."""
        self._logs = deque(state, maxlen=HISTORY)
