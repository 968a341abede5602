"""What is remembered of earlier replies, to tell odd ones by."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

from strategies.errors import Reason, Refused
from strategies.outliers import LARGEST_Z, robust_z

NORMS = 64
ENOUGH_NORMS = 8  # accepted norms before outliers can be told
COLD_FACTOR = 100.0
LOSSES = 20
ENOUGH_LOSSES = 5  # before an explosion can be told from a start


class NormHistory:
    """Log norms of the updates accepted lately."""

    def __init__(self) -> None:
        self._logs: deque[float] = deque(maxlen=NORMS)

    def check(self, norm: float, steps: int, *, model_norm: float) -> None:
        """Refuse a norm whose ``robust_z`` of ``log(norm / sqrt(steps))`` is > 6.

        Only outliers above are refused: a small update does no harm. Until enough norms are known to tell one, an
        update may be a hundred times as long as the model (or as 1, for a model that starts from nothing).
        """
        if len(self._logs) < ENOUGH_NORMS:
            longest = COLD_FACTOR * max(1.0, model_norm)
            if norm > longest:
                raise Refused(Reason.NORM_OUTLIER, f"norm {norm:.3g}, at first at most {longest:.3g} is taken")
            return
        if (z := robust_z(_log_norm(norm, steps), self._logs)) > LARGEST_Z:
            raise Refused(Reason.NORM_OUTLIER, f"norm {norm:.3g} after {steps} steps, z-score {z:.1f} > {LARGEST_Z}")

    def add(self, norm: float, steps: int) -> None:
        """Remember the norm of an update that counted."""
        self._logs.append(_log_norm(norm, steps))

    def state(self) -> list[float]:
        """The remembered logarithms."""
        return list(self._logs)

    def restore(self, state: list[float]) -> None:
        """Inverse of ``state``."""
        self._logs = deque(state, maxlen=NORMS)


class Replays:
    """Tells a node's update from a copy of its last one: real training never gives the same bytes twice."""

    def __init__(self) -> None:
        self._last: dict[int, tuple[str, int]] = {}

    def check(self, row: int, digest: str, norm: float) -> None:
        """Refuse bytes equal to those accepted last from ``row``; an update of nothing may repeat itself."""
        last, round = self._last.get(row, ("", 0))
        if norm > 0 and last == digest:
            raise Refused(Reason.DUPLICATE, f"the same bytes as in round {round}")

    def add(self, row: int, digest: str, round: int) -> None:
        """Remember an update that counted."""
        self._last[row] = digest, round

    def state(self) -> dict[str, Any]:
        """Digest and round by row."""
        return {str(row): list(last) for row, last in self._last.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Inverse of ``state``."""
        self._last = {int(row): (digest, round) for row, (digest, round) in state.items()}


class LossWatch:
    """Judges a series of losses by ``robust_z`` of their logarithms."""

    def __init__(self) -> None:
        self._logs: deque[float] = deque(maxlen=LOSSES)

    def exploded(self, loss: float | None) -> bool:
        """Whether ``loss`` is not finite (or None, which stands for that), or its z-score exceeds 6."""
        if loss is None or not math.isfinite(loss):
            return True
        return len(self._logs) >= ENOUGH_LOSSES and robust_z(_log_loss(loss), self._logs) > LARGEST_Z

    def add(self, loss: float) -> None:
        """Remember a loss that was none."""
        self._logs.append(_log_loss(loss))

    def state(self) -> list[float]:
        """The remembered logarithms."""
        return list(self._logs)

    def restore(self, state: list[float]) -> None:
        """Inverse of ``state``."""
        self._logs = deque(state, maxlen=LOSSES)


def _log_norm(norm: float, steps: int) -> float:
    return math.log(max(norm, 1e-30) / math.sqrt(max(1, steps)))


def _log_loss(loss: float) -> float:
    return math.log(max(loss, 1e-12))
