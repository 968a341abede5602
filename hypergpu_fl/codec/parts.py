"""What a decoded body is: values that can be added to a total without first becoming a dense vector.

Each has ``square()`` (sum of squares, float64), ``finite()`` and ``add_to(total_P, runs, weight)``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hypergpu_fl.codec.spans import Run
from strategies.layout import Vector

BLOCK = 1 << 16  # values handled at once where a temporary is needed; a multiple of every block size


@dataclass(frozen=True, slots=True)
class Dense:
    """All values."""

    values: Vector

    def square(self) -> float:
        """Sum of squares, in float64."""
        return float(sum(np.square(v, dtype=np.float64).sum() for v in _blocks(self.values)))

    def finite(self) -> bool:
        """Whether no value is NaN or Inf."""
        return all(bool(np.isfinite(v).all()) for v in _blocks(self.values))

    def add_to(self, total_P: Vector, runs: tuple[Run, ...], weight: float) -> None:
        """``total += weight * values`` at the runs of the vector."""
        factor, at = np.float32(weight), 0
        for start, stop in runs:
            for first in range(start, stop, BLOCK):
                part = total_P[first : min(first + BLOCK, stop)]
                part += factor * self.values[at : at + part.size]
                at += part.size


@dataclass(frozen=True, slots=True)
class Blocks:
    """Integer codes and a bfloat16 scale a block."""

    codes: NDArray[np.int8]
    scales: NDArray[np.uint16]
    block: int

    def square(self) -> float:
        """Sum of squares, in float64."""
        from hypergpu_fl.codec import kernels

        return float(kernels.block_square(self.codes, self.scales, self.block))

    def finite(self) -> bool:
        """Hold always: scales were checked as they were read."""
        return True

    def add_to(self, total_P: Vector, runs: tuple[Run, ...], weight: float) -> None:
        """``total += weight * values`` at the runs of the vector."""
        from hypergpu_fl.codec import kernels

        if len(runs) == 1:
            start, stop = runs[0]
            kernels.block_add(total_P[start:stop], self.codes, self.scales, self.block, weight)
            return
        at, values = 0, np.empty(0, dtype=np.float32)
        for start, stop in runs:
            while start < stop:
                if not values.size:
                    codes = self.codes[at : at + BLOCK]
                    values = np.zeros(codes.size, dtype=np.float32)
                    scales = self.scales[at // self.block : -(-(at + codes.size) // self.block)]
                    kernels.block_add(values, codes, scales, self.block, weight)
                    at += codes.size
                n = min(stop - start, values.size)
                total_P[start : start + n] += values[:n]
                start, values = start + n, values[n:]


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
        from hypergpu_fl.codec import kernels

        kernels.scatter_add(total_P, self.index, self.value, weight)


Part = Dense | Blocks | Sparse


def _blocks(values: Vector) -> list[Vector]:
    return [values[i : i + BLOCK] for i in range(0, values.size, BLOCK)]
