"""What is remembered of earlier replies, to recognise odd ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from strategies.errors import Reason, Refused
from strategies.fleet.outliers import LARGEST_Z, robust_z

NODES = 64  # most recently seen nodes whose norms are remembered
NORMS = 3  # remembered per node
ENOUGH_NODES = 3  # other nodes before an outlier can be recognised
COLD_FACTOR = 10.0
SAME_WITHIN = 1e-6  # of a sketch's largest number


class NormHistory:
    """Log norms of the nodes' latest updates, whether they counted or not. Each node has one vote, its median.

    So no early entry sets the scale for good. When the model has moved and honest updates change in norm, the new norm
    is ordinary as soon as half of the nodes show it.
    """

    def __init__(self) -> None:
        self._logs: dict[int, list[float]] = {}

    def check(self, row: int, norm: float, steps: int, *, model_norm: float) -> None:
        """Refuse a norm whose ``robust_z`` of ``log(norm / sqrt(steps))`` among other nodes' is > 6.

        Only large outliers are refused, since a small update does no harm. Until enough other nodes are known, an
        update's norm may be ten times the model's, or 10 for a model of norm below 1.
        """
        others = [median(logs) for other, logs in self._logs.items() if other != row]
        if len(others) < ENOUGH_NODES:
            longest = COLD_FACTOR * max(1.0, model_norm)
            if norm > longest:
                raise _outlier(f"norm {norm:.3g}, at first at most {longest:.3g} is taken")
            return
        if (z := robust_z(_log_norm(norm, steps), others)) > LARGEST_Z:
            raise _outlier(f"norm {norm:.3g} after {steps} steps, z-score {z:.1f} > {LARGEST_Z}")

    def add(self, row: int, norm: float, steps: int) -> None:
        """Remember a norm."""
        self._logs[row] = [*self._logs.pop(row, []), _log_norm(norm, steps)][-NORMS:]
        while len(self._logs) > NODES:
            del self._logs[next(iter(self._logs))]

    def state(self) -> dict[str, list[float]]:
        """The remembered logarithms by row, those seen longest ago first."""
        return {str(row): list(logs) for row, logs in self._logs.items()}

    def restore(self, state: Mapping[str, list[float]]) -> None:
        """Inverse of ``state``."""
        self._logs = {int(row): list(logs) for row, logs in state.items()}


class Replays:
    """Recognises a node's last update sent again: real training never gives the same values twice.

    A blob's bytes can change without its values, such as the base in its header, so sketches are compared where there
    are any, see `model.sketch`. A scaled copy is not recognised, since an honest update may be a multiple of the last.
    Nor is a copy with noise beyond ``SAME_WITHIN``: a node whose every step is on all of its data honestly sends nearly
    the same update twice, so no tolerance separates the two.
    """

    def __init__(self) -> None:
        self._last: dict[int, tuple[str, tuple[float, ...], int]] = {}

    def check(self, row: int, digest: str, sketch: Sequence[float], norm: float) -> None:
        """Refuse a repetition of the last accepted update from ``row``; an update of zeros may repeat itself."""
        last, values, round = self._last.get(row, ("", (), 0))
        if norm > 0 and (last == digest or _alike(values, sketch)):
            raise Refused(Reason.DUPLICATE, f"the same update as in round {round}")

    def add(self, row: int, digest: str, sketch: Sequence[float], round: int) -> None:
        """Remember an update that counted."""
        self._last[row] = digest, tuple(sketch), round

    def forget(self) -> None:
        """Forget all of them."""
        self._last.clear()

    def state(self) -> dict[str, Any]:
        """Digest, sketch and round by row."""
        return {str(row): [digest, list(sketch), round] for row, (digest, sketch, round) in self._last.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Inverse of ``state``."""
        self._last = {int(row): (digest, tuple(sketch), round) for row, (digest, sketch, round) in state.items()}


def _outlier(found: str) -> Refused:
    return Refused(Reason.NORM_OUTLIER, f"{found}; if many are, lower the learning rate, or scale inputs and targets")


def _alike(left: Sequence[float], right: Sequence[float]) -> bool:
    """Whether two sketches are of the same values."""
    if not left or len(left) != len(right):
        return False
    reach = SAME_WITHIN * max(map(abs, left))
    return all(abs(one - other) <= reach for one, other in zip(left, right, strict=True))


def _log_norm(norm: float, steps: int) -> float:
    return math.log(max(norm, 1e-30) / math.sqrt(max(1, steps)))
