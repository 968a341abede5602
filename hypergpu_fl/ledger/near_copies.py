"""Sketches of updates, to find those that are nearly the same: work that was copied, or done once and sent twice.

The cosine c of two sketches has a standard error of about (1 - c^2) / 23 = (1 - c^2) / sqrt(`SKETCH`): 0.004 at 0.95.

Names used here: N, M = updates, P = values of the model, S = values that an update holds, or those of its sketch.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from strategies.model.layout import Vector

SKETCH: Final = 512
"""Dimensions in which updates are compared."""


@cache
def signs(size: int) -> NDArray[np.int8]:
    """Signs of the fold, shape (P,); the same in every process."""
    return np.random.default_rng(0).choice(np.array([-1, 1], dtype=np.int8), size=size)


def sketch(index_S: NDArray[np.uint32] | None, value_S: Vector, signs_P: NDArray[np.int8]) -> Vector:
    """Fold P values with random signs onto `SKETCH`: keeps inner products in expectation (count sketch, ICALP 2002).

    The update holds ``value_S`` in the places ``index_S``; None means in all P places.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # an overflow shows in the sketch
        if index_S is not None:
            signed_S = value_S * signs_P[index_S]
            sums: Vector = np.bincount(index_S % SKETCH, weights=signed_S, minlength=SKETCH).astype(np.float32)
            return sums
        signed_P = value_S * signs_P
        whole = signed_P.size - signed_P.size % SKETCH
        folded: Vector = signed_P[:whole].reshape(-1, SKETCH).sum(axis=0)
        folded[: signed_P.size - whole] += signed_P[whole:]
        return folded


def unit(sketches_NS: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows scaled to length 1; rows of zeros, and rows that overflowed, become zero, so that they are like no other."""
    wide_NS = np.where(np.isfinite(sketches_NS).all(axis=1, keepdims=True), sketches_NS, 0).astype(np.float64)
    norms = np.linalg.norm(wide_NS, axis=1, keepdims=True)
    units_NS: NDArray[np.float64] = np.divide(wide_NS, norms, out=np.zeros_like(wide_NS), where=norms > 0)
    return units_NS.astype(np.float32)


def cosines(one_NS: NDArray[np.float32], other_MS: NDArray[np.float32]) -> NDArray[np.float32]:
    """Shape (N, M): cosines of all pairs of rows of length 1."""
    with _blas().limit(limits=1, user_api="blas"):  # BLAS threads spin for 50 ms afterwards and would slow training
        product: NDArray[np.float32] = one_NS @ other_MS.T
    return product


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()
