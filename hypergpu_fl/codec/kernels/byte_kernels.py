"""CPU kernels that rearrange bytes and compute nothing: planes of words, two codes a byte, one row after another."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from hypergpu_fl.codec.kernels.compiled import I8, I8_IN, U8, U8_IN, U16, U16_IN, U32, U32_IN, inlined, kernel

Array = NDArray[Any]


@inlined
def copy(source: Array, out: Array) -> None:
    """``out[:] = source``, which would take numba seconds to compile."""
    for i in range(out.size):
        out[i] = source[i]


@kernel(types.void, U16_IN, U8)
def split2(words: Array, planes: Array) -> None:
    """Byte planes of 16-bit words, the least significant first."""
    n = words.size
    low, high = planes[:n], planes[n : 2 * n]
    for i in range(n):
        low[i] = words[i] & 255
        high[i] = words[i] >> 8


@kernel(types.void, U32_IN, U8)
def split4(words: Array, planes: Array) -> None:
    """Byte planes of 32-bit words."""
    n = words.size
    a, b, c, d = planes[:n], planes[n : 2 * n], planes[2 * n : 3 * n], planes[3 * n : 4 * n]
    for i in range(n):
        word = words[i]
        a[i] = word & 255
        b[i] = (word >> 8) & 255
        c[i] = (word >> 16) & 255
        d[i] = word >> 24


@kernel(types.void, U8_IN, U8_IN, U16)
def merge2(low: Array, high: Array, words: Array) -> None:
    """Inverse of `split2`."""
    for i in range(words.size):
        words[i] = np.uint16(low[i]) | (np.uint16(high[i]) << 8)


@kernel(types.void, U8_IN, U8_IN, U8_IN, U8_IN, U32)
def merge4(a: Array, b: Array, c: Array, d: Array, words: Array) -> None:
    """Inverse of `split4`."""
    for i in range(words.size):
        words[i] = np.uint32(a[i]) | (np.uint32(b[i]) << 8) | (np.uint32(c[i]) << 16) | (np.uint32(d[i]) << 24)


@kernel(types.void, I8_IN, U8)
def pack_nibbles(codes: Array, packed: Array) -> None:
    """Two codes a byte, the earlier one in the low half."""
    for i in range(codes.size >> 1):
        packed[i] = (codes[2 * i] & 15) | ((codes[2 * i + 1] & 15) << 4)
    if codes.size & 1:
        packed[codes.size >> 1] = codes[codes.size - 1] & 15


@kernel(types.void, U8_IN, I8)
def unpack_nibbles(packed: Array, codes: Array) -> None:
    """Inverse of `pack_nibbles`."""
    for i in range(codes.size >> 1):
        codes[2 * i] = np.int8(packed[i] << np.uint8(4)) >> np.int8(4)
        codes[2 * i + 1] = np.int8(packed[i]) >> np.int8(4)
    if codes.size & 1:
        codes[codes.size - 1] = np.int8(packed[codes.size >> 1] << np.uint8(4)) >> np.int8(4)


@kernel(types.void, U8_IN, types.int64, types.int64, U16_IN, U8)
def join(rows: Array, first: int, step: int, sizes: Array, joined: Array) -> None:
    """Put rows of bytes, which start every ``step`` bytes from ``first``, one after another."""
    end = np.int64(0)
    for i in range(sizes.size):
        start, size = first + i * step, np.int64(sizes[i])
        copy(rows[start : start + size], joined[end : end + size])
        end += size
