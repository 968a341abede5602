"""Updates that are nearly the same: work that was copied, or done once and sent twice.

Names used here: N = updates, P = values of an update.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

NEAR_DUPLICATE_COSINE: Final = 0.95
SKETCH: Final = 1024
"""Dimensions in which updates are compared; a cosine c is off by about (1 - c^2) / 32: 0.003 at 0.95."""


def sketch(delta_P: NDArray[np.float32], signs_P: NDArray[np.int8]) -> NDArray[np.float32]:
    """Signed fold of P values onto `SKETCH`: inner products are kept in expectation (count sketch, ICALP 2002)."""
    signed_P = delta_P * signs_P
    whole = signed_P.size - signed_P.size % SKETCH
    folded: NDArray[np.float32] = signed_P[:whole].reshape(-1, SKETCH).sum(axis=0)
    folded[: signed_P.size - whole] += signed_P[whole:]
    return folded


def near_duplicates(updates_NP: NDArray[np.float32], *, cosine: float = NEAR_DUPLICATE_COSINE) -> list[int]:
    """For each update the first earlier one that it nearly equals, -1 if none: cosine at or above `cosine`.

    A node that sends the same work under several identities is paid for it several times; this finds plain copies,
    not copies with noise of the update's own size. Zero updates equal nothing.
    """
    norms = np.linalg.norm(updates_NP, axis=1, keepdims=True)
    unit_NP = np.divide(updates_NP, norms, out=np.zeros_like(updates_NP), where=norms > 0)
    with _blas().limit(limits=1, user_api="blas"):  # BLAS's threads go on spinning for 50 ms, in training's way
        similar_NN = unit_NP @ unit_NP.T >= cosine
    earlier = [np.flatnonzero(row[:i]) for i, row in enumerate(similar_NN)]
    return [int(found[0]) if found.size else -1 for found in earlier]


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()
