"""CPU kernels of the codec, compiled by numba.

Shapes: P = values, C = chunk length, K = values kept a chunk. Every kernel is deterministic to the last bit and
independent of how the work is cut into threads, because `hypergpu_fl.codec.device` must give the same bytes on a
GPU: comparisons and rounding are IEEE float32, and means are sums of integers (see ``_quantise``).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from hypergpu_fl.codec.compiled import (
    F32,
    F32_IN,
    I8,
    I8_IN,
    U8,
    U8_IN,
    U16,
    U16_IN,
    U32,
    U32_IN,
    inlined,
    kernel,
)

Array = NDArray[Any]
_MAGNITUDE = np.int32(0x7FFFFFFF)
_TOO_LARGE = np.int32((127 + 120) << 23)  # bits of 2**120: NaN and Inf lie above as well
_SUM_BITS = 40  # a magnitude becomes an integer below 2**41, so sums of 2**9 of them are exact in float64
_HUGE = 1 << 50
_PIECE = 4096  # values that several loops pass over while they lie in the nearest cache


@inlined
def _count(bits: Array, threshold: np.int32) -> np.int32:
    """Magnitudes at or above the threshold."""
    count = np.int32(0)
    for i in range(bits.size):
        count += np.int32((bits[i] & _MAGNITUDE) >= threshold)
    return count


@inlined
def _largest(bits: Array) -> np.int32:
    largest = np.int32(0)
    for i in range(bits.size):
        largest = max(largest, bits[i] & _MAGNITUDE)
    return largest


@inlined
def _add(delta: Array, old: Array, out: Array) -> None:
    for i in range(out.size):
        out[i] = delta[i] + old[i]


@inlined
def _input(delta: Array, old: Array, out: Array, start: int, stop: int) -> np.int32:
    """``out = delta + old`` on a slice; bits of the largest magnitude."""
    part = out[start:stop]
    if old.size:
        _add(delta[start:stop], old[start:stop], part)
    else:
        part[:] = delta[start:stop]
    return _largest(part.view(np.int32))


@inlined
def _bf16(value: float) -> np.uint16:
    """Nearest bfloat16, ties to even; ``value`` is finite."""
    bits = np.float32(value).view(np.uint32)
    return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


@inlined
def _widen(bits: np.uint16) -> np.float32:
    return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)


@inlined
def _select(bits: Array, k: int, guess: np.int32, top: np.int32, index: Array, kept: Array) -> np.int32:
    """Find the k largest magnitudes: indices ascend; among equals the lowest index wins.

    Narrows a threshold on the bit patterns (float order is integer order for magnitudes) by counting, which runs
    at cache speed, until few more than k candidates remain; those are settled exactly. ``guess`` (the last
    chunk's threshold) only saves passes, it does not change the result.
    """
    low, high, count = np.int32(0), np.int32(top + 1), np.int32(bits.size)
    enough, target = k + (k >> 2) + 8, k + (k >> 3) + 4
    threshold, tries = guess, 0
    while count > enough and high - low > 1:
        if threshold <= low or threshold >= high or tries > 6:
            threshold = np.int32(low + (high - low) // 2)
        found = _count(bits, threshold)
        if found >= k:
            low, count = threshold, found
        else:
            high = threshold
        # tail counts fall roughly with the fifth power of the threshold
        threshold = np.int32(threshold + np.int32(math.log2(max(int(found), 1) / target) * 8388608.0 / 5.0))
        tries += 1
    candidates = 0
    for i in range(bits.size):
        index[candidates] = i
        kept[candidates] = bits[i] & _MAGNITUDE
        candidates += (bits[i] & _MAGNITUDE) >= low
    few = kept[:candidates]
    while high - low > 1:
        threshold = np.int32(low + (high - low) // 2)
        if _count(few, threshold) >= k:
            low = threshold
        else:
            high = threshold
    ties = k - _count(few, high)
    n = 0
    for i in range(candidates):
        if few[i] >= high:
            index[n] = index[i]
            n += 1
        elif few[i] == low and ties > 0:
            index[n] = index[i]
            n += 1
            ties -= 1
    return low


@inlined
def _quantise(values: Array, index: Array, k: int, top: np.int32, whole: Array) -> tuple[np.uint16, np.uint16, int]:
    """Two magnitudes for k values: means below and above a split, found by two steps of Lloyd's iteration.

    Magnitudes are truncated to multiples of 2**-40 of the largest one's binade and summed as integers, so the
    sums do not depend on the order of addition. A mean is lowered to 15/8 of the least magnitude it stands for,
    and to 0 where it would vanish beside the split: so ``p - q`` is exact in float32, whatever the input.
    Returns both magnitudes as bfloat16 bits, and the split.
    """
    exponent = max(int(top >> 23), 1) - 127
    scale = math.ldexp(1.0, _SUM_BITS - exponent)
    total = 0
    for i in range(k):
        whole[i] = np.int64(abs(np.float64(values[index[i]])) * scale)
        total += whole[i]
    split, following = total // k, total // k
    mean_low, mean_high, least_low, least_high = 0.0, 0.0, _HUGE, _HUGE
    for _ in range(2):
        split = following
        above, n_above, least_low, least_high = 0, 0, _HUGE, _HUGE
        for i in range(k):
            if whole[i] > split:
                above += whole[i]
                n_above += 1
                least_high = min(least_high, whole[i])
            else:
                least_low = min(least_low, whole[i])
        mean_low = np.float64(total - above) / np.float64(k - n_above)
        if n_above == 0:
            mean_high, least_high = mean_low, least_low
            break
        mean_high = np.float64(above) / np.float64(n_above)
        following = ((total - above) // (k - n_above) + above // n_above) // 2
    mean_low = min(mean_low, np.float64(15 * least_low) / 8.0)
    mean_high = min(mean_high, np.float64(15 * least_high) / 8.0)
    if mean_low * 16384.0 < np.float64(split):
        mean_low = 0.0
    return _bf16(mean_low / scale), _bf16(mean_high / scale), split


@kernel(types.int64, F32_IN, F32_IN, F32, types.int64, types.int64, types.int64, types.int64, U8, U8, U8, U16, U16)
def topk(
    delta: Array,
    old: Array,
    out: Array,
    chunk: int,
    k_full: int,
    first: int,
    last: int,
    gaps: Array,
    signs: Array,
    marks: Array,
    low: Array,
    high: Array,
) -> int:
    """Encode chunks ``first..last``: ``out`` becomes the residual; returns the gap bytes, -1 for a bad value."""
    index = np.empty(chunk + 1, np.int32)
    kept = np.empty(chunk + 1, np.int32)
    whole = np.empty(k_full, np.int64)
    n_gaps, threshold = 0, np.int32(1 << 29)
    for c in range(first, last):
        start = c * chunk
        stop = min(start + chunk, out.size)
        top = _input(delta, old, out, start, stop)
        if top >= _TOO_LARGE:
            return -1
        part = out[start:stop]
        k = (part.size * k_full + chunk - 1) // chunk
        threshold = _select(part.view(np.int32), k, threshold, top, index, kept)
        low[c], high[c], split = _quantise(part, index, k, top, whole)
        small, large = _widen(low[c]), _widen(high[c])
        base, last_index = c * k_full, -1
        for i in range(k):
            j = index[i]
            gap = j - last_index - 1
            last_index = j
            while gap >= 255:
                gaps[n_gaps] = 255
                n_gaps += 1
                gap -= 255
            gaps[n_gaps] = gap
            n_gaps += 1
            bit = np.uint8(1 << ((base + i) & 7))
            value = small
            if whole[i] > split:
                marks[(base + i) >> 3] |= bit
                value = large
            if part[j] < 0:
                signs[(base + i) >> 3] |= bit
                value = -value
            part[j] -= value
    return n_gaps


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
        small, large = _widen(low[c]), _widen(high[c])
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


@kernel(types.boolean, F32_IN, F32_IN, F32, types.int64, types.int64, types.int64, types.int64, I8, U16)
def blocks(
    delta: Array, old: Array, out: Array, start: int, stop: int, block: int, largest: int, codes: Array, scales: Array
) -> bool:
    """Encode values ``start..stop`` as integers of at most ``largest`` with one bfloat16 scale a block.

    ``code = round_half_even(p / scale)`` with ``scale = bf16(max|p| / largest)``, so the largest value of a block
    always gets the largest code, and encoding what was decoded changes nothing.
    """
    for b, first in enumerate(range(start, stop, block)):
        end = min(first + block, stop)
        top = _input(delta, old, out, first, end)
        if top >= _TOO_LARGE:
            return False
        part = out[first:end]
        code = codes[first - start : end - start]
        peak = np.int32(top).view(np.float32)
        scales[b] = _bf16(float(peak / np.float32(largest)))
        scale = _widen(scales[b])
        if scale == 0:
            code[:] = 0
            continue
        bound = np.float32(largest)
        for i in range(part.size):
            q = min(max(np.rint(part[i] / scale), -bound), bound)
            code[i] = np.int8(q)
            part[i] -= q * scale
    return True


@inlined
def _to_half(bits: np.uint32) -> np.uint16:
    """Nearest float16 of float32 bits, ties to even; beyond 65504 saturates (after Giesen, without branches)."""
    sign = np.uint32(bits & np.uint32(0x80000000))
    size = np.uint32(min(bits & np.uint32(0x7FFFFFFF), np.uint32(0x477FE000)))
    odd = np.uint32((size >> np.uint32(13)) & np.uint32(1))
    normal = np.uint32(np.uint32(size - np.uint32(0x37FFF001) + odd) >> np.uint32(13))
    # adding 0.5 lets the float adder shift and round a subnormal
    shifted = np.float32(size.view(np.float32) + np.float32(0.5))
    small = np.uint32(shifted.view(np.uint32) - np.uint32(0x3F000000))
    return np.uint16((small if size < np.uint32(0x38800000) else normal) | (sign >> np.uint32(16)))


@inlined
def _from_half(half: np.uint16) -> np.float32:
    """Float32 of float16 bits, Inf and NaN included."""
    shifted = np.uint32(np.uint32(half & np.uint16(0x7FFF)) << np.uint32(13))
    exponent = np.uint32(shifted & np.uint32(0x0F800000))
    bias = np.uint32(0x70000000) if exponent == np.uint32(0x0F800000) else np.uint32(0x38000000)
    normal = np.uint32(shifted + bias)
    small = np.float32(np.uint32(shifted + np.uint32(0x38800000)).view(np.float32) - np.float32(2.0**-14))
    size = small.view(np.uint32) if exponent == np.uint32(0) else normal
    return np.uint32(size | np.uint32(np.uint32(half & np.uint16(0x8000)) << np.uint32(16))).view(np.float32)


@kernel(types.boolean, F32_IN, F32_IN, F32, types.int64, types.int64, types.boolean, U16)
def halves(delta: Array, old: Array, out: Array, start: int, stop: int, brain: bool, words: Array) -> bool:
    """Values ``start..stop`` as float16 bits, or as bfloat16 with ``brain``; False for a bad value."""
    for first in range(start, stop, _PIECE):
        end = min(first + _PIECE, stop)
        if _input(delta, old, out, first, end) >= _TOO_LARGE:
            return False
        part, word = out[first:end], words[first - start : end - start]
        bits = part.view(np.uint32)
        if brain:
            for i in range(part.size):
                word[i] = (bits[i] + np.uint32(0x7FFF) + ((bits[i] >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
                part[i] -= _widen(word[i])
        else:
            for i in range(part.size):
                word[i] = _to_half(bits[i])
                part[i] -= _from_half(word[i])
    return True


@kernel(types.void, U16_IN, types.boolean, F32)
def widen(words: Array, brain: bool, values: Array) -> None:
    """Float32 of bfloat16 bits with ``brain``, else of float16 bits."""
    if brain:
        for i in range(values.size):
            values[i] = _widen(words[i])
    else:
        for i in range(values.size):
            values[i] = _from_half(words[i])


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


@kernel(types.int64, U8_IN, types.int64)
def collisions(content: Array, stride: int) -> int:
    """Sum of the squared counts of every ``stride``-th byte's values."""
    counts = np.zeros(256, np.int64)
    for i in range(0, content.size, stride):
        counts[content[i]] += 1
    total = 0
    for i in range(256):
        total += counts[i] * counts[i]
    return total


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


@kernel(types.boolean, F32_IN, F32_IN, F32, types.int64, types.int64, U32)
def whole(delta: Array, old: Array, out: Array, start: int, stop: int, words: Array) -> bool:
    """Values ``start..stop`` as float32 bits; False for a bad value."""
    largest = np.int32(0)
    values, bits = words.view(np.float32), words.view(np.int32)
    for first in range(0, stop - start, _PIECE):
        end = min(first + _PIECE, stop - start)
        if old.size:
            _add(delta[start + first : start + end], old[start + first : start + end], values[first:end])
        else:
            values[first:end] = delta[start + first : start + end]
        largest = max(largest, _largest(bits[first:end]))
        out[start + first : start + end] = np.float32(0)
    return bool(largest < _TOO_LARGE)


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
            total[i] += weight * _widen(words[i])
    else:
        for i in range(total.size):
            total[i] += weight * _from_half(words[i])


@kernel(types.void, F32, I8_IN, U16_IN, types.int64, types.int64, types.float32)
def block_add(total: Array, codes: Array, scales: Array, block: int, first: int, weight: float) -> None:
    """``total += weight * scale * code``, of the codes from ``first`` on."""
    at = first
    while at < first + total.size:
        end = min(at - at % block + block, first + total.size)
        part, code = total[at - first : end - first], codes[at:end]
        scale = _widen(scales[at // block]) * weight
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
        scale = np.float64(_widen(scales[b]))
        total += scale * scale * np.float64(squares)
    return total


@kernel(types.void, U32)
def round_to_grid(bits: Array) -> None:
    """Round float32 bits to 10 bits of mantissa, ties to even."""
    for i in range(bits.size):
        b = bits[i]
        bits[i] = (b + np.uint32(0xFFF) + ((b >> np.uint32(13)) & np.uint32(1))) & np.uint32(0xFFFFE000)
