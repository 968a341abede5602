"""CPU kernels that encode values, compiled by numba.

Shapes: P = values, C = chunk length, K = values kept a chunk. Every kernel of the codec is deterministic to the last
bit and independent of how the work is cut into threads, because `hypergpu_fl.codec.device` must give the same bytes on
a GPU: comparisons and rounding are IEEE float32, and means are sums of integers (see ``_quantise``).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from hypergpu_fl.codec.kernels.byte_kernels import copy
from hypergpu_fl.codec.kernels.compiled import F32, F32_IN, I8, U8, U16, U32, inlined, kernel
from hypergpu_fl.codec.kernels.float_conversions import bf16, from_bf16, from_half, to_half

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
        copy(delta[start:stop], part)
    return _largest(part.view(np.int32))


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
    return bf16(mean_low / scale), bf16(mean_high / scale), split


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
        small, large = from_bf16(low[c]), from_bf16(high[c])
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
        scales[b] = bf16(float(peak / np.float32(largest)))
        scale = from_bf16(scales[b])
        if scale == 0:
            code[:] = 0
            continue
        bound = np.float32(largest)
        for i in range(part.size):
            q = min(max(np.rint(part[i] / scale), -bound), bound)
            code[i] = np.int8(q)
            part[i] -= q * scale
    return True


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
                part[i] -= from_bf16(word[i])
        else:
            for i in range(part.size):
                word[i] = to_half(bits[i])
                part[i] -= from_half(word[i])
    return True


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
            copy(delta[start + first : start + end], values[first:end])
        largest = max(largest, _largest(bits[first:end]))
        out[start + first : start + end] = np.float32(0)
    return bool(largest < _TOO_LARGE)


@kernel(types.void, U32)
def round_to_grid(bits: Array) -> None:
    """Round float32 bits to 10 bits of mantissa, ties to even."""
    for i in range(bits.size):
        b = bits[i]
        bits[i] = (b + np.uint32(0xFFF) + ((b >> np.uint32(13)) & np.uint32(1))) & np.uint32(0xFFFFE000)
