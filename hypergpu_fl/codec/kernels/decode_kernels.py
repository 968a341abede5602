"""CPU kernels that read values back and add them, compiled by numba; names as in `encode_kernels`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from hypergpu_fl.codec.kernels.compiled import F32, F32_IN, I8_IN, U8_IN, U16_IN, U32, U32_IN, kernel
from hypergpu_fl.codec.kernels.float_conversions import from_bf16, from_half

Array = NDArray[Any]


@kernel(types.int64, U8_IN, U8_IN, U8_IN, U16_IN, U16_IN, types.int64, types.int64, types.int64, U32, F32)
def untopk(
    gaps: Array,
    signs: Array,
    marks: Array,
    low: Array,
    high: Array,
    size: int,
    chunk: int,
    k_full: int,
    index: Array,
    value: Array,
) -> int:
    """Write indices and values; returns the gap bytes read, or -1 when they run out or leave their chunk."""
    at, n = 0, 0
    for c in range(low.size):
        start = c * chunk
        length = min(chunk, size - start)
        k = (length * k_full + chunk - 1) // chunk
        small, large = from_bf16(low[c]), from_bf16(high[c])
        place = -1
        for _ in range(k):
            place += 1
            while at < gaps.size and gaps[at] == 255:
                place += 255
                at += 1
            if at >= gaps.size:
                return -1
            place += gaps[at]
            at += 1
            if place >= length:
                return -1
            magnitude = large if (marks[n >> 3] >> (n & 7)) & 1 else small
            index[n] = start + place
            value[n] = -magnitude if (signs[n >> 3] >> (n & 7)) & 1 else magnitude
            n += 1
    return at


@kernel(types.void, U16_IN, types.boolean, F32)
def widen(words: Array, brain: bool, values: Array) -> None:
    """Float32 of bfloat16 bits with ``brain``, else of float16 bits."""
    if brain:
        for i in range(values.size):
            values[i] = from_bf16(words[i])
    else:
        for i in range(values.size):
            values[i] = from_half(words[i])


@kernel(types.void, F32, U32_IN, F32_IN, types.float32)
def scatter_add(total: Array, index: Array, value: Array, weight: float) -> None:
    """``total[index] += weight * value``; indices are below ``total.size``."""
    for i in range(index.size):
        total[index[i]] += weight * value[i]


@kernel(types.void, F32, F32_IN, types.float32)
def add(total: Array, values: Array, weight: float) -> None:
    """``total += weight * values``."""
    for i in range(total.size):
        total[i] += weight * values[i]


@kernel(types.void, F32, U16_IN, types.boolean, types.float32)
def half_add(total: Array, words: Array, brain: bool, weight: float) -> None:
    """``total += weight * values`` of bfloat16 bits with ``brain``, else of float16 bits."""
    if brain:
        for i in range(total.size):
            total[i] += weight * from_bf16(words[i])
    else:
        for i in range(total.size):
            total[i] += weight * from_half(words[i])


@kernel(types.void, F32, I8_IN, U16_IN, types.int64, types.int64, types.float32)
def block_add(total: Array, codes: Array, scales: Array, block: int, first: int, weight: float) -> None:
    """``total += weight * scale * code``, of the codes from ``first`` on."""
    at = first
    while at < first + total.size:
        end = min(at - at % block + block, first + total.size)
        part, code = total[at - first : end - first], codes[at:end]
        scale = from_bf16(scales[at // block]) * weight
        for i in range(part.size):
            part[i] += scale * np.float32(code[i])
        at = end


@kernel(types.float64, I8_IN, U16_IN, types.int64)
def block_square(codes: Array, scales: Array, block: int) -> float:
    """``sum((scale * code)**2)``."""
    total = 0.0
    for b in range(scales.size):
        code = codes[b * block : (b + 1) * block]
        squares = np.int32(0)
        for i in range(code.size):
            squares += np.int32(code[i]) * np.int32(code[i])
        scale = np.float64(from_bf16(scales[b]))
        total += scale * scale * np.float64(squares)
    return total
