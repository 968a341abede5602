"""What a decoded body is: values that can be added to a total without first becoming a dense vector.

Each has ``square()`` (sum of squares, float64), ``finite()`` and ``add_to(total_P, runs, weight)``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hypergpu_fl.codec.format.blob import Planes
from hypergpu_fl.codec.format.words import Word, from_word
from hypergpu_fl.codec.threads import ordered_map
from strategies.model.layout import Run, Vector

PIECE = 1 << 18  # values handled at once by one thread


@dataclass(frozen=True, slots=True)
class Dense:
    """All values, still as the bytes that arrived: they become words and numbers on their way to the total."""

    planes: Planes
    word: Word

    def values(self) -> Vector:
        """All of them as float32."""
        return from_word(self.planes.words(0, self.planes.size), self.word)

    def square(self) -> float:
        """Sum of squares, in float64."""
        return float(sum(np.square(v, dtype=np.float64).sum() for v in self._pieces()))

    def finite(self) -> bool:
        """Whether no value is NaN or Inf."""
        return all(bool(np.isfinite(v).all()) for v in self._pieces())

    def add_to(self, total_P: Vector, runs: tuple[Run, ...], weight: float) -> None:
        """``total += weight * values`` at the runs of the vector."""
        from hypergpu_fl.codec.kernels import decode_kernels

        def add(part: Vector, at: int) -> None:
            words = self.planes.words(at, at + part.size)
            if self.word is Word.FP32:
                decode_kernels.add(part, words.view(np.float32), weight)
            else:
                decode_kernels.half_add(part, words, self.word is Word.BF16, weight)

        _over(total_P, runs, add)

    def _pieces(self) -> Iterator[Vector]:
        size = self.planes.size
        return (from_word(self.planes.words(i, min(i + PIECE, size)), self.word) for i in range(0, size, PIECE))


@dataclass(frozen=True, slots=True)
class Blocks:
    """Integer codes and a bfloat16 scale a block."""

    codes: NDArray[np.int8]
    scales: NDArray[np.uint16]
    block: int

    def square(self) -> float:
        """Sum of squares, in float64."""
        from hypergpu_fl.codec.kernels import decode_kernels

        return float(decode_kernels.block_square(self.codes, self.scales, self.block))

    def finite(self) -> bool:
        """Hold always: scales were checked as they were read."""
        return True

    def add_to(self, total_P: Vector, runs: tuple[Run, ...], weight: float) -> None:
        """``total += weight * values`` at the runs of the vector."""
        from hypergpu_fl.codec.kernels import decode_kernels

        _over(
            total_P,
            runs,
            lambda part, at: decode_kernels.block_add(part, self.codes, self.scales, self.block, at, weight),
        )


@dataclass(frozen=True, slots=True)
class Sparse:
    """A few values and where in the vector they lie; indices are distinct and in range."""

    index: NDArray[np.uint32]
    value: Vector

    def square(self) -> float:
        """Sum of squares, in float64."""
        return float(np.square(self.value, dtype=np.float64).sum())

    def finite(self) -> bool:
        """Hold always: scales were checked as they were read."""
        return True

    def add_to(self, total_P: Vector, runs: tuple[Run, ...], weight: float) -> None:
        """``total += weight * values``; the indices already speak of the whole vector, whatever the runs."""
        from hypergpu_fl.codec.kernels import decode_kernels

        decode_kernels.scatter_add(total_P, self.index, self.value, weight)


Body = Dense | Blocks | Sparse


def _over(total_P: Vector, runs: tuple[Run, ...], add: Callable[[Vector, int], None]) -> None:
    """``add(part, at)`` for pieces of the runs, on several threads; ``at`` counts the runs' values only."""
    pieces, at = [], 0
    for start, stop in runs:
        for first in range(start, stop, PIECE):
            part = total_P[first : min(first + PIECE, stop)]
            pieces.append((part, at))
            at += part.size
    for _ in ordered_map(lambda piece: add(*piece), pieces):
        pass
