"""GPU kernels that encode values, compiled by Triton, which torch's CUDA builds bring along.

Shapes: P = values, N = chunks, C = chunk length, K = values kept a chunk, R = room for a chunk's candidates,
B = blocks.

The functions are those of `hypergpu_fl.codec.device_operations`, which knows no compiler, with the same result to the
last bit; but delta and residual are read once and the new residual is written once. None of them waits for the GPU:
a value that does not fit is told by a flag, which is fetched with the content.

Only comparisons, IEEE float32 sums and quotients, and sums of integers decide what is sent; whatever else is computed
(the guess of a threshold) may differ between machines, for it only saves passes. The one product that a compiler
could fuse with the difference after it, code times scale, is exact in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from hypergpu_fl.codec.values import Word

_MAGNITUDE = tl.constexpr(0x7FFFFFFF)
_SIGN = tl.constexpr(-0x80000000)
_TOO_LARGE = tl.constexpr((127 + 120) << 23)  # bits of 2**120: NaN and Inf lie above as well
_HALF_MAX = tl.constexpr(65504.0)
_SUM_BITS = tl.constexpr(40)
_HUGE = tl.constexpr(1 << 50)
_ROUNDER = tl.constexpr(float(1 << 23))  # from here on float32 has no fractions: adding it rounds to even
_PIECE = 2048
_TILE = 4096  # values a program of `words` and `blocks`
_EXACT = {"enable_fp_fusion": False}  # no product joins the sum after it, whatever the default
_WARPS = 8  # of `words` and `blocks`: twice the values a thread would take registers that four programs need
_GAUSS = (torch.pi / 2) ** 0.5  # standard deviation over mean magnitude of Gaussian values


def kernel(function: Callable[..., Any]) -> Any:
    """Compile at first launch; once for all sizes, as nothing here gains from knowing more of them."""
    return triton.jit(function, do_not_specialize=["n"])


@kernel
def _input(
    delta: tl.tensor, old: tl.tensor, at: tl.tensor, size: tl.tensor, full: tl.constexpr, has_old: tl.constexpr
) -> tl.tensor:
    """``delta + old`` at the places below ``size``, 0 at others."""
    if size >= full:  # a mask of its own would keep the loads from being 16 bytes wide
        p = tl.load(delta + at)
        if has_old:
            p += tl.load(old + at)
    else:
        p = tl.load(delta + at, mask=at < size, other=0.0)
        if has_old:
            p += tl.load(old + at, mask=at < size, other=0.0)
    return p


@kernel
def _store(out: tl.tensor, at: tl.tensor, content: tl.tensor, size: tl.tensor, full: tl.constexpr) -> None:
    if size >= full:
        tl.store(out + at, content)
    else:
        tl.store(out + at, content, mask=at < size)


@kernel
def _magnitude(values: tl.tensor) -> tl.tensor:
    """Bits without the sign, in the order of the magnitudes; those that do not fit are all alike."""
    return tl.minimum(values.to(tl.int32, bitcast=True) & _MAGNITUDE, _TOO_LARGE)


@kernel
def _refuse(top: tl.tensor, unfit: tl.tensor) -> None:
    if top >= _TOO_LARGE:
        tl.store(unfit, 1)


@kernel
def _to_bf16(values: tl.tensor) -> tl.tensor:
    """Bits of the nearest bfloat16, ties to even, as uint32."""
    bits = values.to(tl.uint32, bitcast=True)
    return (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16


@kernel
def _from_bf16(bits: tl.tensor) -> tl.tensor:
    return (bits << 16).to(tl.float32, bitcast=True)


@kernel
def _ranked(magnitude: tl.tensor, low: tl.tensor, high: tl.tensor, ties: tl.tensor, seen: tl.tensor) -> tl.tensor:
    """Which are kept and their ranks: all from ``high`` on, the first ``ties`` of those from ``low`` on.

    ``seen`` counts both kinds among the values before, one in each half of an integer; its new value comes last.
    """
    sure = magnitude >= high
    maybe = (magnitude >= low) & (magnitude < high)
    each = sure.to(tl.int32) + (maybe.to(tl.int32) << 16)
    counts = tl.cumsum(each, 0) + seen
    n_sure, n_maybe = counts & 0xFFFF, counts >> 16
    return sure | (maybe & (n_maybe <= ties)), n_sure + tl.minimum(n_maybe, ties) - 1, seen + tl.sum(each, 0)


@kernel
def _select(
    delta: tl.tensor,
    old: tl.tensor,
    out: tl.tensor,
    room_index: tl.tensor,
    room_value: tl.tensor,
    bracket: tl.tensor,
    unfit: tl.tensor,
    n: tl.tensor,
    reach: tl.tensor,
    has_old: tl.constexpr,
    C: tl.constexpr,
    K: tl.constexpr,
    R: tl.constexpr,
    PIECE: tl.constexpr,
) -> None:
    """A chunk's sum, and at least its k and at most R largest values in order, with a threshold's bounds among them.

    As on the CPU a threshold on the bit patterns is narrowed by counting, here until R hold all candidates. Where
    equal values do not fit, the bounds have met, and the first of them are taken.
    """
    chunk = tl.program_id(0).to(tl.int64)
    start = chunk * C
    size = tl.minimum(n - start, C).to(tl.int32)
    k = (size * K + C - 1) // C
    at = tl.arange(0, C)
    p = _input(delta + start, old + start, at, size, C, has_old)
    _store(out + start, at, p, size, C)
    magnitude = tl.where(at < size, _magnitude(p), -1)
    top = tl.max(magnitude, 0)
    _refuse(top, unfit)
    low, high, count, n_above, tries = top * 0, top + 1, size, top * 0, top * 0
    mean = tl.sum(tl.abs(p) * (1.0 / C), 0) / (size.to(tl.float32) / C)
    threshold = (mean * reach).to(tl.int32, bitcast=True)
    while (count > R) & (high - low > 1):
        outside = (threshold <= low) | (threshold >= high) | (tries > 6)
        middle = low + (high - low) // 2
        # more equal values than there is room for, zeros above all, are mostly the least or the largest
        middle = tl.where(tries == 7, low + 1, tl.where(tries == 8, high - 1, middle))
        threshold = tl.where(outside, middle, threshold)
        found = tl.sum((magnitude >= threshold).to(tl.int32), 0)
        enough = found >= k
        low, count = tl.where(enough, threshold, low), tl.where(enough, found, count)
        high, n_above = tl.where(enough, high, threshold), tl.where(enough, n_above, found)
        # tail counts fall roughly with the fifth power of the threshold
        octaves = tl.log2(tl.maximum(found, 1).to(tl.float32) / (1.4 * k.to(tl.float32))) / 5.0
        threshold += (octaves * 8388608.0).to(tl.int32)
        tries += 1
    count = tl.where(count > R, k, count)
    # Piece by piece, out of the nearest cache: the registers of a whole chunk would leave room for one program at a
    # time, which waits for memory while it does not compute.
    tl.debug_barrier()
    seen = top * 0
    for first in range(0, C, PIECE):
        place = first + tl.arange(0, PIECE)
        value = tl.load(out + start + place, mask=place < size, other=0.0)
        bits = tl.where(place < size, _magnitude(value), -1)
        kept, rank, seen = _ranked(bits, low, high, count - n_above, seen)
        tl.store(room_index + chunk * R + rank, place.to(tl.int16), mask=kept)
        tl.store(room_value + chunk * R + rank, value, mask=kept)
    tl.store(bracket + chunk * 3, count)
    tl.store(bracket + chunk * 3 + 1, low)
    tl.store(bracket + chunk * 3 + 2, high)


@kernel
def _settle(
    room_index: tl.tensor,
    room_value: tl.tensor,
    bracket: tl.tensor,
    index: tl.tensor,
    value: tl.tensor,
    n: tl.tensor,
    C: tl.constexpr,
    K: tl.constexpr,
    R: tl.constexpr,
) -> None:
    """The k largest of a chunk's candidates, in order; among equals the first wins."""
    chunk = tl.program_id(0).to(tl.int64)
    k = (tl.minimum(n - chunk * C, C).to(tl.int32) * K + C - 1) // C
    count = tl.load(bracket + chunk * 3)
    low, high = tl.load(bracket + chunk * 3 + 1), tl.load(bracket + chunk * 3 + 2)
    j = tl.arange(0, R)
    there = j < count
    values = tl.load(room_value + chunk * R + j, mask=there, other=0.0)
    places = tl.load(room_index + chunk * R + j, mask=there, other=0)
    magnitude = tl.where(there, _magnitude(values), -1)
    n_above = tl.sum((magnitude >= high).to(tl.int32), 0)
    while (count > k) & (high - low > 1):
        middle = low + (high - low) // 2
        found = tl.sum((magnitude >= middle).to(tl.int32), 0)
        enough = found >= k
        low, count = tl.where(enough, middle, low), tl.where(enough, found, count)
        high, n_above = tl.where(enough, high, middle), tl.where(enough, n_above, found)
    kept, rank, _ = _ranked(magnitude, low, high, k - n_above, low * 0)
    tl.store(index + chunk * K + rank, places, mask=kept)
    tl.store(value + chunk * K + rank, values, mask=kept)


@kernel
def _quantise(
    out: tl.tensor,
    index: tl.tensor,
    value: tl.tensor,
    signs: tl.tensor,
    marks: tl.tensor,
    scales: tl.tensor,
    gap_bytes: tl.tensor,
    n: tl.tensor,
    C: tl.constexpr,
    K: tl.constexpr,
) -> None:
    """Bits and magnitudes of a chunk's k values as `encode_kernels._quantise` finds them; the rest of them to ``out``.

    ``scales`` holds the lower magnitudes of all chunks, then the upper ones.
    """
    chunk = tl.program_id(0).to(tl.int64)
    k = (tl.minimum(n - chunk * C, C).to(tl.int32) * K + C - 1) // C
    j = tl.arange(0, K)
    there = j < k
    values = tl.load(value + chunk * K + j, mask=there, other=0.0)
    places = tl.load(index + chunk * K + j, mask=there, other=0).to(tl.int32)
    before = tl.load(index + chunk * K + j - 1, mask=there & (j > 0), other=-1).to(tl.int32)
    tl.store(gap_bytes + chunk, tl.sum(tl.where(there, 1 + (places - before - 1) // 255, 0), 0))

    exponent = tl.maximum(tl.max(_magnitude(values), 0) >> 23, 1) - 127
    scale = ((1023 - exponent + _SUM_BITS).to(tl.int64) << 52).to(tl.float64, bitcast=True)
    whole = (tl.abs(values).to(tl.float64) * scale).to(tl.int64)
    total = tl.sum(whole, 0)
    split = total // k
    following = split
    for _ in tl.static_range(2):
        split = following
        mark = whole > split
        above = tl.sum(tl.where(mark, whole, 0), 0)
        n_above = tl.sum(mark.to(tl.int32), 0)
        middle = ((total - above) // (k - n_above) + above // tl.maximum(n_above, 1)) // 2
        following = tl.where(n_above > 0, middle, split)
    least_low = tl.min(tl.where(there & (whole <= split), whole, _HUGE), 0)
    least_high = tl.min(tl.where(whole > split, whole, _HUGE), 0)
    low = (total - above).to(tl.float64) / (k - n_above).to(tl.float64)
    high = above.to(tl.float64) / tl.maximum(n_above, 1).to(tl.float64)
    high = tl.where(n_above > 0, high, low)
    least_high = tl.where(n_above > 0, least_high, least_low)
    low = tl.minimum(low, (15 * least_low).to(tl.float64) / 8.0)
    high = tl.minimum(high, (15 * least_high).to(tl.float64) / 8.0)
    low = tl.where(low * 16384.0 < split.to(tl.float64), 0.0, low)
    low_bits, high_bits = _to_bf16((low / scale).to(tl.float32)), _to_bf16((high / scale).to(tl.float32))
    tl.store(scales + chunk, low_bits.to(tl.int16))
    tl.store(scales + tl.num_programs(0) + chunk, high_bits.to(tl.int16))

    negative = values < 0
    sent = tl.where(mark, _from_bf16(high_bits), _from_bf16(low_bits))
    tl.store(out + chunk * C + places, values - tl.where(negative, -sent, sent), mask=there)
    byte = tl.arange(0, K // 8)
    places_of_bits = tl.arange(0, 8)[None, :]
    sign_bytes = tl.sum(tl.reshape(negative.to(tl.int32), (K // 8, 8)) << places_of_bits, 1)
    mark_bytes = tl.sum(tl.reshape(mark.to(tl.int32), (K // 8, 8)) << places_of_bits, 1)
    tl.store(signs + chunk * (K // 8) + byte, sign_bytes.to(tl.uint8))
    tl.store(marks + chunk * (K // 8) + byte, mark_bytes.to(tl.uint8))


@kernel
def _write_gaps(
    index: tl.tensor,
    gap_bytes: tl.tensor,
    ends: tl.tensor,
    gaps: tl.tensor,
    n: tl.tensor,
    C: tl.constexpr,
    K: tl.constexpr,
) -> None:
    """``gap % 255`` of a chunk's gaps behind ``gap // 255`` bytes that hold 255 already."""
    chunk = tl.program_id(0).to(tl.int64)
    k = (tl.minimum(n - chunk * C, C).to(tl.int32) * K + C - 1) // C
    j = tl.arange(0, K)
    there = j < k
    places = tl.load(index + chunk * K + j, mask=there, other=0).to(tl.int32)
    before = tl.load(index + chunk * K + j - 1, mask=there & (j > 0), other=-1).to(tl.int32)
    gap = places - before - 1
    start = tl.load(ends + chunk) - tl.load(gap_bytes + chunk)
    last = tl.cumsum(tl.where(there, 1 + gap // 255, 0), 0) - 1
    tl.store(gaps + start + last, (gap % 255).to(tl.uint8), mask=there)


@kernel
def _blocks(
    delta: tl.tensor,
    old: tl.tensor,
    out: tl.tensor,
    codes: tl.tensor,
    scales: tl.tensor,
    unfit: tl.tensor,
    n: tl.tensor,
    has_old: tl.constexpr,
    largest: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
) -> None:
    start = tl.program_id(0).to(tl.int64) * (ROWS * BLOCK)
    size = tl.minimum(n - start, ROWS * BLOCK).to(tl.int32)
    row = tl.arange(0, ROWS)
    at = row[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    p = _input(delta + start, old + start, at, size, ROWS * BLOCK, has_old)
    peak = tl.max(_magnitude(p), 1)
    _refuse(tl.max(peak, 0), unfit)
    bits = _to_bf16(tl.div_rn(peak.to(tl.float32, bitcast=True), tl.full((ROWS,), largest, tl.float32)))
    tl.store(scales + start // BLOCK + row, bits.to(tl.int16), mask=row * BLOCK < size)
    scale = _from_bf16(bits)[:, None]
    quotient = tl.div_rn(tl.abs(p), tl.where(scale == 0, 1.0, scale) + tl.zeros_like(p))
    code = tl.minimum((quotient + _ROUNDER) - _ROUNDER, largest)
    code = tl.where(scale == 0, 0.0, code)
    # the sign of a zero as well, for the residual's sake
    code = (code.to(tl.int32, bitcast=True) | (p.to(tl.int32, bitcast=True) & _SIGN)).to(tl.float32, bitcast=True)
    rest = tl.where(scale == 0, p, p - code * scale)
    _store(codes + start, at, code.to(tl.int8), size, ROWS * BLOCK)
    _store(out + start, at, rest, size, ROWS * BLOCK)


@kernel
def _words(
    delta: tl.tensor,
    old: tl.tensor,
    out: tl.tensor,
    words: tl.tensor,
    unfit: tl.tensor,
    n: tl.tensor,
    has_old: tl.constexpr,
    word: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    start = tl.program_id(0).to(tl.int64) * TILE
    size = tl.minimum(n - start, TILE).to(tl.int32)
    at = tl.arange(0, TILE)
    p = _input(delta + start, old + start, at, size, TILE, has_old)
    _refuse(tl.max(_magnitude(p), 0), unfit)
    if word == "fp32":
        content = p.to(tl.int32, bitcast=True)
        rest = tl.zeros_like(p)
    elif word == "fp16":
        half = tl.minimum(tl.maximum(p, -_HALF_MAX), _HALF_MAX).to(tl.float16)
        content = half.to(tl.int16, bitcast=True)
        rest = p - half.to(tl.float32)
    else:
        bits = _to_bf16(p)
        content = bits.to(tl.int16)
        rest = p - _from_bf16(bits)
    _store(words + start, at, content, size, TILE)
    _store(out + start, at, rest, size, TILE)


def words(delta_P: Tensor, old_P: Tensor | None, out_P: Tensor, word: Word) -> tuple[Tensor, Tensor]:
    """See `device_operations.words`."""
    n, unfit = out_P.numel(), _flag(out_P)
    content_P = torch.empty_like(out_P, dtype=torch.int32 if word is Word.FP32 else torch.int16)
    with torch.cuda.device(out_P.get_device()):
        old = delta_P if old_P is None else old_P
        _words[(-(-n // _TILE),)](
            delta_P,
            old,
            out_P,
            content_P,
            unfit,
            n,
            has_old=old_P is not None,
            word=word.value,
            TILE=_TILE,
            num_warps=_WARPS,
            **_EXACT,
        )
    return content_P, unfit


def blocks(
    delta_P: Tensor, old_P: Tensor | None, out_P: Tensor, block: int, largest: int
) -> tuple[Tensor, Tensor, Tensor]:
    """See `device_operations.blocks`."""
    n, unfit = out_P.numel(), _flag(out_P)
    codes_P = torch.empty_like(out_P, dtype=torch.int8)
    scales_B = out_P.new_empty(-(-n // block), dtype=torch.int16)
    with torch.cuda.device(out_P.get_device()):
        _blocks[(-(-n // _TILE),)](
            delta_P,
            delta_P if old_P is None else old_P,
            out_P,
            codes_P,
            scales_B,
            unfit,
            n,
            has_old=old_P is not None,
            largest=largest,
            BLOCK=block,
            ROWS=_TILE // block,
            num_warps=_WARPS,
            **_EXACT,
        )
    return codes_P, scales_B, unfit


def topk(
    delta_P: Tensor, old_P: Tensor | None, out_P: Tensor, chunk: int, k: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See `device_operations.topk`."""
    n, unfit, room = out_P.numel(), _flag(out_P), 2 * k
    grid = (-(-n // chunk),)
    room_index_NR, room_value_NR = (out_P.new_empty(grid[0], room, dtype=t) for t in (torch.int16, torch.float32))
    index_NK, value_NK = (out_P.new_empty(grid[0], k, dtype=t) for t in (torch.int16, torch.float32))
    bracket_N3 = out_P.new_empty(grid[0], 3, dtype=torch.int32)
    signs, marks = (out_P.new_empty(grid[0] * k // 8, dtype=torch.uint8) for _ in range(2))
    scales_2N = out_P.new_empty(2 * grid[0], dtype=torch.int16)
    gap_bytes_N = out_P.new_empty(grid[0], dtype=torch.int32)
    reach = _GAUSS * NormalDist().inv_cdf(1 - 0.7 * k / chunk)
    few = 1 if k <= 256 else 4
    with torch.cuda.device(out_P.get_device()):
        _select[grid](
            delta_P,
            delta_P if old_P is None else old_P,
            out_P,
            room_index_NR,
            room_value_NR,
            bracket_N3,
            unfit,
            n,
            reach,
            has_old=old_P is not None,
            C=chunk,
            K=k,
            R=room,
            PIECE=_PIECE,
            num_warps=16,
            maxnreg=64,  # so that two programs share a multiprocessor, one computing while one loads
            **_EXACT,
        )
        _settle[grid](
            room_index_NR,
            room_value_NR,
            bracket_N3,
            index_NK,
            value_NK,
            n,
            C=chunk,
            K=k,
            R=room,
            num_warps=few,
            **_EXACT,
        )
        _quantise[grid](
            out_P, index_NK, value_NK, signs, marks, scales_2N, gap_bytes_N, n, C=chunk, K=k, num_warps=few, **_EXACT
        )
        ends_N = gap_bytes_N.cumsum(0)
        # room for the most bytes there can be, for their number is not known on the host
        gaps = torch.full((grid[0] * (k + chunk // 255),), 255, dtype=torch.uint8, device=out_P.device)
        _write_gaps[grid](index_NK, gap_bytes_N, ends_N, gaps, n, C=chunk, K=k, num_warps=few, **_EXACT)
    return gaps, ends_N[-1:], signs, marks, scales_2N, unfit


def _flag(like: Tensor) -> Tensor:
    return torch.zeros(1, dtype=torch.int32, device=like.device)
