"""What an update must be before it may count."""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from strategies.aggregation import Update
from strategies.errors import Reason, Refused

HISTORY = 64
ENOUGH = 8  # accepted norms before outliers can be told
LARGEST_Z = 6.0
MAD_TO_SIGMA = 1.4826  # of a normal distribution


class NormHistory:
    """Log norms of the updates accepted lately; robust to a minority of bad ones."""

    def __init__(self) -> None:
        self._logs: deque[float] = deque(maxlen=HISTORY)

    def check(self, norm: float, steps: int) -> None:
        """Refuse a norm a step whose robust z-score, ``|x - median| / (1.4826 MAD)`` of its logarithm, exceeds 6.

        Only outliers above are refused: a small update does no harm. The deviation is floored at 0.25, since a
        run of nearly equal norms must not make an ordinary one look odd.
        """
        log_norm = math.log(max(norm, 1e-30) / math.sqrt(steps))
        if len(self._logs) >= ENOUGH:
            median = float(np.median(self._logs))
            sigma = max(0.25, MAD_TO_SIGMA * float(np.median(np.abs(np.asarray(self._logs) - median))))
            if (z := (log_norm - median) / sigma) > LARGEST_Z:
                raise Refused(
                    Reason.NORM_OUTLIER, f"norm {norm:.3g} after {steps} steps, z-score {z:.1f} > {LARGEST_Z}"
                )
        self._logs.append(log_norm)


def check_update(update: Update, *, size: int, steps: int, norms: NormHistory) -> None:
    """Refuse an update of another model, with a value that is not finite, or far out of proportion."""
    if update.size != size:
        raise Refused(Reason.WRONG_MODEL, f"{update.size} values, the model has {size}")
    if not update.finite():
        raise Refused(Reason.NON_FINITE, "the update holds NaN or infinity; lower the learning rate on that node")
    norms.check(update.norm(), steps)


def check_base(base: int, *, current: int, oldest: int) -> int:
    """Staleness of an update against version ``base``, in versions."""
    if not oldest <= base <= current:
        raise Refused(Reason.UNKNOWN_BASE, f"base {base}, the server keeps {oldest}..{current}; full model next round")
    return current - base
