"""Updates that are nearly the same: work that was copied, or done once and sent twice.

Names used here: N = updates, P = values of an update, S = those that it holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from strategies.model.layout import Vector

NEAR_DUPLICATE_COSINE: Final = 0.95
SKETCH: Final = 1024
"""Dimensions in which updates are compared; a cosine c is off by about (1 - c^2) / 32: 0.003 at 0.95."""


@cache
def signs(size: int) -> NDArray[np.int8]:
    """Shape (P,): the fold's signs, the same for everybody."""
    return np.random.default_rng(0).choice(np.array([-1, 1], dtype=np.int8), size=size)


def sketch(index_S: NDArray[np.uint32] | None, value_S: Vector, signs_P: NDArray[np.int8]) -> Vector:
    """Signed fold of P values onto `SKETCH`: inner products are kept in expectation (count sketch, ICALP 2002).

    The update holds ``value_S`` in the places ``index_S``; None: everywhere.
    """
    if index_S is not None:
        signed_S = value_S * signs_P[index_S]
        sums: Vector = np.bincount(index_S % SKETCH, weights=signed_S, minlength=SKETCH).astype(np.float32)
        return sums
    signed_P = value_S * signs_P
    whole = signed_P.size - signed_P.size % SKETCH
    folded: Vector = signed_P[:whole].reshape(-1, SKETCH).sum(axis=0)
    folded[: signed_P.size - whole] += signed_P[whole:]
    return folded


@dataclass(frozen=True, slots=True)
class Known:
    """Updates of one round: whose, what each was credited with, and their sketches, shape (N, SKETCH)."""

    nodes: Sequence[str]
    scores: Sequence[int]
    sketches: NDArray[np.float32]


def near_duplicates(updates_NP: NDArray[np.float32], *, cosine: float = NEAR_DUPLICATE_COSINE) -> list[int]:
    """For each update the first earlier one that it nearly equals, -1 if none: cosine at or above `cosine`.

    Zero updates equal nothing.
    """
    similar_NN = _cosines(updates_NP, updates_NP) >= cosine
    earlier = [np.flatnonzero(row[:i]) for i, row in enumerate(similar_NN)]
    return [int(found[0]) if found.size else -1 for found in earlier]


def _cosines(one_NP: NDArray[np.float32], other_MP: NDArray[np.float32]) -> NDArray[np.float32]:
    with _blas().limit(limits=1, user_api="blas"):  # BLAS's threads go on spinning for 50 ms, in training's way
        product: NDArray[np.float32] = _unit(one_NP) @ _unit(other_MP).T
    return product


def _unit(updates_NP: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(updates_NP, axis=1, keepdims=True)
    unit: NDArray[np.float32] = np.divide(updates_NP, norms, out=np.zeros_like(updates_NP), where=norms > 0)
    return unit


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()
