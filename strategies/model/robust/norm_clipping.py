"""Weighted mean of updates whose norms are clipped to their median (Sun et al., arXiv 1911.07963).

The bound adapts by itself: no update moves the model further than an ordinary one, however large it is.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from strategies.model.aggregation import DenseUpdate, Entered
from strategies.model.layout import Vector
from strategies.model.robust.held import HeldUpdates


class NormClipping(HeldUpdates):
    """``sum(p_i * delta_i * min(1, c / |delta_i|))`` with c the median norm."""

    def entered(self, index: int) -> Entered:
        """See ``Aggregator.entered``: the whole update, with the share that clipping left."""
        return Entered(self._common_steps * self._factors[index] * self._lengths[index] / self._steps[index])

    def _reduce(self) -> Vector:
        total_P = np.zeros(self._size, dtype=np.float32)
        for vector, factor in zip(self._vectors, self._factors, strict=True):
            DenseUpdate(vector).add_to(total_P, factor)
        return total_P

    @cached_property
    def _factors(self) -> list[float]:
        norms = np.asarray([DenseUpdate(vector).norm() for vector in self._vectors])
        clipped = np.minimum(1.0, np.median(norms) / np.maximum(norms, 1e-30))
        factors: list[float] = (clipped * np.asarray(self._weights) / sum(self._weights)).tolist()
        return factors
