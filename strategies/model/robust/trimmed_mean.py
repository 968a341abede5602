"""Coordinate-wise trimmed mean (Yin et al., arXiv 1803.01498). Weights are ignored."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from strategies.model.robust.held import Coordinatewise


class TrimmedMean(Coordinatewise):
    """The mean of every coordinate without the ``floor(cut * K)`` smallest and largest of its K values.

    Parameters
    ----------
    size : int
        P.
    cut : float
        In [0, 0.5): share cut off at each end.
    """

    def __init__(self, size: int, *, cut: float = 0.2) -> None:
        if not 0 <= cut < 0.5:
            raise ValueError(f"cut must be in [0, 0.5), got {cut}")
        super().__init__(size)
        self._cut = cut

    def _ranks(self, count: int) -> tuple[int, int]:
        """See ``Coordinatewise``."""
        low = int(self._cut * count)
        return low, count - low

    def _reduce_block(self, block_KB: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        low, high = self._ranks(block_KB.shape[0])
        block_KB = np.partition(block_KB, (low, high - 1), axis=0)
        mean: NDArray[np.floating[Any]] = block_KB[low:high].mean(axis=0, dtype=np.float64)
        return mean
