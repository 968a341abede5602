"""Krum: the one update that lies closest to its neighbours (Blanchard et al., NIPS 2017, arXiv 1703.02757)."""

from __future__ import annotations

import numpy as np

from strategies.model.aggregation import Entered
from strategies.model.layout import Vector
from strategies.model.robust.held import BLOCK, HeldUpdates

MALICIOUS = 0.2  # share f / K of updates that may be arbitrary; below a half


class Krum(HeldUpdates):
    """The update whose K - f - 2 nearest others have the least sum of squared distances; ``size`` is P."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._chosen = -1

    def entered(self, index: int) -> Entered:
        """See ``Aggregator.entered``: the whole of the chosen update."""
        return Entered(self._common_steps * self._lengths[index] / self._steps[index] if index == self._chosen else 0.0)

    def _reduce(self) -> Vector:
        count = self.count
        squares_KK = np.zeros((count, count))
        for start in range(0, self._size, BLOCK):  # from differences, since norms minus products would cancel
            for i in range(count):
                block = self._vectors[i][start : start + BLOCK]
                for j in range(i + 1, count):
                    gap = (block - self._vectors[j][start : start + BLOCK]).astype(np.float64)
                    squares_KK[i, j] += gap @ gap
        squares_KK += squares_KK.T
        nearest = max(1, count - int(MALICIOUS * count) - 2)
        scores = np.sort(squares_KK, axis=1)[:, 1 : nearest + 1].sum(axis=1)  # column 0 is the update itself
        self._chosen = int(np.argmin(scores))
        return self._vectors[self._chosen].copy()
