"""What the robust rules share: they need all updates at once, so memory is O(model * updates).

Names used here: K = updates of the round, P = floating-point values of the model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strategies.model.aggregation import Entered, Update, typical_steps
from strategies.model.layout import Vector

BLOCK = 65_536  # columns reduced at once


class HeldUpdates(ABC):
    """Keeps every update as a dense vector; normalised by local steps like the mean (see ``StreamingMean``)."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._vectors: list[Vector] = []
        self._weights: list[float] = []
        self._steps: list[int] = []
        self._lengths: list[float] = []

    @property
    def count(self) -> int:
        """K."""
        return len(self._vectors)

    def add(self, update: Update, *, weight: float, steps: int, length: float) -> None:
        """See ``Aggregator.add``."""
        vector_P = np.zeros(self._size, dtype=np.float32)
        update.add_to(vector_P, length / steps)
        self._vectors.append(vector_P)
        self._weights.append(weight)
        self._steps.append(steps)
        self._lengths.append(length)

    def mean(self) -> Vector:
        """See ``Aggregator.mean``: the rule's result per step, times the weighted median of local steps."""
        if not self._vectors:
            return np.zeros(self._size, dtype=np.float32)
        reduced_P = self._reduce()
        reduced_P *= np.float32(self._common_steps)
        return reduced_P

    @abstractmethod
    def entered(self, index: int) -> Entered:
        """See ``Aggregator.entered``."""

    @property
    def _common_steps(self) -> int:
        return typical_steps(self._steps, self._weights)

    @abstractmethod
    def _reduce(self) -> Vector:
        """One new vector of length P from all of them."""


class Coordinatewise(HeldUpdates):
    """A rule that takes the mean of each coordinate's middle values, one block of columns at a time."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._middle: list[NDArray[np.uint8]] = []  # per update, bits: whether each value is among the middle ones

    def entered(self, index: int) -> Entered:
        """See ``Aggregator.entered``: its values where they are among the middle ones; among equals, the first ones."""
        low, high = self._ranks(self.count)
        if not self._middle:
            self._middle = [np.zeros(-(-self._size // 8), dtype=np.uint8) for _ in self._vectors]
            for start in range(0, self._size, BLOCK):
                block_KB = np.stack([vector[start : start + BLOCK] for vector in self._vectors])
                rank_KB = np.argsort(np.argsort(block_KB, axis=0, kind="stable"), axis=0, kind="stable")
                for bits, rank_B in zip(self._middle, rank_KB, strict=True):
                    packed = np.packbits((rank_B >= low) & (rank_B < high))
                    bits[start // 8 : start // 8 + packed.size] = packed
        mask_P = np.unpackbits(self._middle[index], count=self._size).view(np.bool_)
        return Entered(self._common_steps / (high - low), np.where(mask_P, self._vectors[index], np.float32(0)))

    @abstractmethod
    def _ranks(self, count: int) -> tuple[int, int]:
        """Ranks of the middle values among ``count``: the first one, and the one after the last."""

    def _reduce(self) -> Vector:
        result_P = np.empty(self._size, dtype=np.float32)
        for start in range(0, self._size, BLOCK):
            block_KB = np.stack([vector[start : start + BLOCK] for vector in self._vectors])
            result_P[start : start + BLOCK] = self._reduce_block(block_KB)
        return result_P

    @abstractmethod
    def _reduce_block(self, block_KB: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        """Shape (B,) from shape (K, B)."""
