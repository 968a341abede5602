"""Weighted mean of updates as they arrive: one pass a reply, memory O(model).

Names used here: P = floating-point values of the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from strategies.model.axpy import add_scaled
from strategies.model.layout import Run, Vector, take

BLOCK = 262_144  # values per block where a pass needs a temporary


class Update(Protocol):
    """A decoded change of the model, dense or sparse."""

    @property
    def size(self) -> int:
        """P."""
        ...

    @property
    def base(self) -> int | None:
        """Version of the model that it changes, None if the update does not say."""
        ...

    @property
    def buffers(self) -> Mapping[str, NDArray[Any]]:
        """Integer and boolean buffers, as they are."""
        ...

    def norm(self) -> float:
        """L2 norm over the P values, statistics left out where they are known."""
        ...

    def at(self, runs: tuple[Run, ...]) -> Vector:
        """Values at these runs of the vector, one after the other."""
        ...

    def finite(self) -> bool:
        """Whether every value is a finite number."""
        ...

    def add_to(self, total_P: Vector, weight: float) -> None:
        """``total_P += weight * update`` in place, without a dense temporary."""
        ...

    def kept(self) -> tuple[NDArray[np.uint32] | None, Vector]:
        """Positions of the values that the update holds (None: all), and those values. Statistics may be left out."""
        ...


@dataclass(frozen=True, slots=True)
class Entered:
    """An update's part in the mean: ``coefficient`` times the update, or times ``part_P`` where that is given."""

    coefficient: float
    part_P: Vector | None = None


class Aggregator(Protocol):
    """Folds a round's updates into one."""

    @property
    def count(self) -> int:
        """Updates folded in."""
        ...

    def add(self, update: Update, *, weight: float, steps: int, length: float) -> None:
        """Fold in ``length`` times one update; ``weight`` > 0, ``steps`` >= 1, 0 < ``length`` <= 1."""
        ...

    def mean(self) -> Vector:
        """How far all updates together move the model; call it once."""
        ...

    def entered(self, index: int) -> Entered:
        """The part that update number ``index``, in the order of adding, has in ``mean``; all parts sum to the mean."""
        ...


class DenseUpdate:
    """An update that is a plain vector of length P."""

    def __init__(self, vector_P: Vector, buffers: Mapping[str, NDArray[Any]] | None = None) -> None:
        self.vector_P = vector_P
        self.size = vector_P.size
        self.base: int | None = None
        self.buffers = buffers or {}

    def norm(self) -> float:
        """L2 norm, accumulated in float64."""
        blocks = (self.vector_P[i : i + BLOCK].astype(np.float64) for i in range(0, self.size, BLOCK))
        return float(np.sqrt(sum(float(block @ block) for block in blocks)))

    def at(self, runs: tuple[Run, ...]) -> Vector:
        """See ``Update.at``."""
        return take(self.vector_P, runs)

    def finite(self) -> bool:
        """Whether every value is a finite number."""
        return all(bool(np.isfinite(self.vector_P[i : i + BLOCK]).all()) for i in range(0, self.size, BLOCK))

    def add_to(self, total_P: Vector, weight: float) -> None:
        """See ``axpy.add_scaled``."""
        add_scaled(total_P, self.vector_P, weight)

    def kept(self) -> tuple[NDArray[np.uint32] | None, Vector]:
        """All values."""
        return None, self.vector_P


class StreamingMean:
    """Mean of updates normalised by local steps, as FedNova (arXiv 2007.07481) does.

    ``mean = tau_eff * sum(p_i * delta_i / tau_i)`` with ``p_i = w_i / sum(w)``: a node that could make more steps moves
    the model in its own direction no further than its weight allows. FedNova leaves ``tau_eff`` open; here it is the
    median of the ``tau_i`` weighted by ``p_i``. Their mean would let one node that claims much data, and is therefore
    asked for many steps, lengthen everybody's step.
    """

    def __init__(self, size: int) -> None:
        self._sum_P = np.zeros(size, dtype=np.float32)
        self._weights: list[float] = []
        self._steps: list[int] = []
        self._lengths: list[float] = []

    def add(self, update: Update, *, weight: float, steps: int, length: float) -> None:
        """See ``Aggregator.add``."""
        update.add_to(self._sum_P, weight * length / steps)
        self._weights.append(weight)
        self._steps.append(steps)
        self._lengths.append(length)

    @property
    def count(self) -> int:
        """Updates folded in."""
        return len(self._steps)

    def mean(self) -> Vector:
        """The mean so far, in place: the accumulator is handed over and must not be added to again."""
        if self._steps:
            self._sum_P *= np.float32(self._scale)
        return self._sum_P

    def entered(self, index: int) -> Entered:
        """See ``Aggregator.entered``."""
        return Entered(self._weights[index] * self._lengths[index] / self._steps[index] * self._scale)

    @property
    def _scale(self) -> float:
        return typical_steps(self._steps, self._weights) / sum(self._weights)


def typical_steps(steps: Sequence[int], weights: Sequence[float]) -> int:
    """The weighted median of the updates' local steps; the lower one if there are two."""
    half, found = sum(weights) / 2, 0.0
    for step, weight in sorted(zip(steps, weights, strict=True)):
        if (found := found + weight) >= half * (1 - 1e-12):
            return step
    raise ValueError("there is no update")
