"""Coordinate-wise median (Yin et al., arXiv 1803.01498): half of all updates may be arbitrary. Weights are ignored."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from strategies.model.robust.held import Coordinatewise


class Median(Coordinatewise):
    """The median of every coordinate."""

    def _ranks(self, count: int) -> tuple[int, int]:
        """See ``Coordinatewise``."""
        return (count - 1) // 2, count // 2 + 1

    def _reduce_block(self, block_KB: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        median: NDArray[np.floating[Any]] = np.median(block_KB, axis=0)
        return median
