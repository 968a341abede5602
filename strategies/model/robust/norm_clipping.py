"""Weighted mean of updates whose norms are clipped to their median (Sun et al., arXiv 1911.07963).

The bound adapts by itself: no update moves the model further than an ordinary one, however large it is.
"""

from __future__ import annotations

import numpy as np

from strategies.model.aggregation import DenseUpdate
from strategies.model.layout import Vector
from strategies.model.robust.held import HeldUpdates


class NormClipping(HeldUpdates):
    """``sum(p_i * delta_i * min(1, c / |delta_i|))`` with c the median norm."""

    def _reduce(self) -> Vector:
        norms = np.asarray([DenseUpdate(vector).norm() for vector in self._vectors])
        factors = np.minimum(1.0, np.median(norms) / np.maximum(norms, 1e-30))
        total_P = np.zeros(self._size, dtype=np.float32)
        shares = np.asarray(self._weights) / sum(self._weights)
        for vector, factor in zip(self._vectors, shares * factors, strict=True):
            DenseUpdate(vector).add_to(total_P, float(factor))
        return total_P
