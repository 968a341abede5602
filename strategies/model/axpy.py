"""``y += a x`` in one pass over memory.

numpy has no such call: it multiplies into a scratch array and adds that, which takes at least half as long again as one
pass. Compiled code needs one pass, but compiling takes a second, so only models long enough to earn it back use it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from strategies.model.layout import Vector

BLOCK = 32_768  # float32 values; 128 KiB of vector and of scratch stay in the second-level cache
COMPILED_FROM = 1_000_000  # values


def add_scaled(total_P: Vector, vector_P: Vector, weight: float) -> None:
    """``total_P += weight * vector_P`` in place, both contiguous, without a dense temporary."""
    factor = np.float32(weight)
    if vector_P.size >= COMPILED_FROM:
        _compiled()(total_P, vector_P, factor)
        return
    scratch = np.empty(min(BLOCK, vector_P.size), dtype=np.float32)
    for start in range(0, vector_P.size, BLOCK):
        block, total = vector_P[start : start + BLOCK], total_P[start : start + BLOCK]
        scaled = scratch[: block.size]
        np.multiply(block, factor, out=scaled)
        np.add(total, scaled, out=total)


@functools.cache
def _compiled() -> Callable[[Vector, Vector, np.float32], None]:
    import numba  # heavy: a client that only trains never needs it

    def axpy(total_P: Vector, vector_P: Vector, factor: np.float32) -> None:
        for i in range(total_P.size):
            total_P[i] += factor * vector_P[i]

    mutable = numba.types.Array(numba.float32, 1, "C")
    readonly = numba.types.Array(numba.float32, 1, "C", readonly=True)
    signature = numba.void(mutable, readonly, numba.float32)
    compiled: Callable[[Vector, Vector, np.float32], None] = numba.njit(signature, fastmath={"contract"}, nogil=True)(
        axpy
    )
    return compiled
