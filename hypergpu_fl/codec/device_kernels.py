"""GPU kernels that encode values, compiled by Triton, which torch's CUDA builds bring along.

Shapes: P = values, N = chunks, C = chunk length, K = values kept a chunk, B = blocks.

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
_GROUP = 128  # chunks whose gap bytes are counted together
_LIMIT = tl.constexpr(2.0**120)
_SUM_OF_ALL = tl.constexpr(52)  # bits that hold the sum of 1024 magnitudes; a count stands above them
_ONE = tl.constexpr(1 << 52)
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
def _narrowed(sizes: tl.tensor, count: tl.tensor, k: tl.tensor, guess: tl.tensor, SLOPE: tl.constexpr) -> tl.tensor:
    """Bounds of a threshold that ``k`` reach, and how many reach the upper and the lower one.

    Counts the sizes that reach two thresholds at a time, which enclose what is sought as narrowly as chance allows.
    Where equal ones make it more than ``k``, the bounds meet, and the lower one is theirs. Sizes of 0 may stand behind
    those that ``count`` tells of.
    """
    low, high, n_above, tries = guess * 0, guess * 0 + (_TOO_LARGE + 1), guess * 0, guess * 0
    spread = 12582912.0 / (SLOPE * tl.sqrt(k.to(tl.float32)))  # counts differ by their root: 1.5 times that
    lower, upper = guess - spread.to(tl.int32), guess + spread.to(tl.int32)
    while (count > k) & (high - low > 1):
        if tries >= 6:
            # many equal values, zeros above all, are mostly the least or the largest between the bounds
            quarter = tl.maximum((high - low) // 4, 1)
            lower, upper = low + quarter, low + 2 * quarter
            if tries == 6:
                lower = low + 1
                bits = sizes.to(tl.int32, bitcast=True)
                upper = tl.max(tl.where(bits < high, bits, 0), 0)
            if tries == 7:
                lower, upper = low + 1, high - 1
        lower = tl.minimum(tl.maximum(lower, low + 1), high - 1)
        upper = tl.minimum(tl.maximum(upper, lower), high - 1)
        first, second = lower.to(tl.float32, bitcast=True), upper.to(tl.float32, bitcast=True)
        found = tl.sum(tl.where(sizes >= second, 0x10001, tl.where(sizes >= first, 1, 0)), 0)
        more, fewer = found & 0xFFFF, found >> 16
        beyond, between = fewer >= k, (more >= k) & (fewer < k)
        last = tl.where(beyond, upper, lower)
        n_last = tl.where(beyond, fewer, more)
        high = tl.where(beyond, high, tl.where(between, upper, lower))
        n_above = tl.where(beyond, n_above, tl.where(between, fewer, more))
        low = tl.where(beyond, upper, tl.where(between, lower, low))
        count = tl.where(beyond, fewer, tl.where(between, more, count))
        if (low > 0) & (high < _TOO_LARGE):
            n_between = (count - n_above).to(tl.float32)
            each = (high - low).to(tl.float32) / n_between
            centre = low + (each * (count - k).to(tl.float32)).to(tl.int32)
            spread = each * 0.3 * tl.sqrt(n_between)
        else:  # tail counts fall roughly with a power of the threshold
            octaves = tl.log2(tl.maximum(n_last, 1).to(tl.float32) / k.to(tl.float32)) / SLOPE
            centre = last + (octaves * 8388608.0).to(tl.int32)
            spread += tl.abs(octaves) * 2516582.0
        lower, upper = centre - spread.to(tl.int32), centre + spread.to(tl.int32)
        tries += 1
    return low, high, n_above, count


@kernel
def _words_of(flags: tl.tensor, C: tl.constexpr) -> tl.tensor:
    """Flags as integers of 32 bits, the first flag the least significant bit."""
    bits = tl.reshape(flags.to(tl.int32), (C // 32, 32)) << tl.arange(0, 32)[None, :]
    return tl.sum(bits, 1).to(tl.uint32, bitcast=True)


@kernel
def _ones(words: tl.tensor) -> tl.tensor:
    """How many bits are set."""
    words = words - ((words >> 1) & 0x55555555)
    words = (words & 0x33333333) + ((words >> 2) & 0x33333333)
    words = (words + (words >> 4)) & 0x0F0F0F0F
    words += words >> 8
    return ((words + (words >> 16)) & 0x3F).to(tl.int32)


@kernel
def _kept(
    sizes: tl.tensor,
    low: tl.tensor,
    high: tl.tensor,
    count: tl.tensor,
    n_above: tl.tensor,
    k: tl.tensor,
    C: tl.constexpr,
) -> tl.tensor:
    """Which k are kept, as bits: those from ``low`` on; if they are more, they are equal up to ``high``: the first."""
    words = _words_of(sizes >= low.to(tl.float32, bitcast=True), C)
    if (count > k) | (low == 0):  # zeros behind the last value are not counted, but reach 0
        above = _words_of(sizes >= high.to(tl.float32, bitcast=True), C)
        ties = words ^ above
        n_ties = _ones(ties)
        before = tl.cumsum(n_ties, 0) - n_ties
        wanted = tl.minimum(tl.maximum(k - n_above - before, 0), n_ties)
        words = above
        for i in range(tl.max(wanted, 0)):
            first = ties & (~ties + 1)
            words = words | tl.where(wanted > i, first, 0)
            ties ^= first
    return words


@kernel
def _list(words: tl.tensor, index: tl.tensor, C: tl.constexpr) -> None:
    """Places of the bits that are set."""
    n_ones = _ones(words)
    rank = tl.cumsum(n_ones, 0) - n_ones
    place = tl.arange(0, C // 32) * 32
    for i in range(tl.max(n_ones, 0)):
        first = words & (~words + 1)
        bit = (first.to(tl.float32).to(tl.int32, bitcast=True) >> 23) - 127
        tl.store(index + rank + i, (place + bit).to(tl.int16), mask=n_ones > i)
        words ^= first


@kernel
def _mean(total: tl.tensor, count: tl.tensor) -> tl.tensor:
    """Of a sum below 2**51 and a count of at most 2**10: the float64 nearest to it, whose floor is the integer's."""
    return total.to(tl.float64) / tl.maximum(count, 1).to(tl.float64)


@kernel
def _parted(whole: tl.tensor, split: tl.tensor) -> tl.tensor:
    """Sum and number of the integers above a split; both fit into one sum."""
    packed = tl.sum(tl.where(whole > split, whole + _ONE, 0), 0)
    return packed & (_ONE - 1), (packed >> _SUM_OF_ALL).to(tl.int32)


@kernel
def _whole(bits: tl.tensor, exponent: tl.tensor) -> tl.tensor:
    """Magnitudes times 2**(40 - exponent), truncated to integers: what float64 would give, without it."""
    own = bits >> 23
    mantissa = tl.where(own > 0, (bits & 0x7FFFFF) | 0x800000, bits).to(tl.int64)
    return (mantissa << (_SUM_BITS - 23)) >> tl.minimum(exponent - tl.maximum(own, 1), 63).to(tl.int64)


@kernel
def _quantised(
    out: tl.tensor,
    index: tl.tensor,
    chunk: tl.tensor,
    k: tl.tensor,
    floor: tl.tensor,
    signs: tl.tensor,
    marks: tl.tensor,
    scales: tl.tensor,
    gap_bytes: tl.tensor,
    groups: tl.tensor,
    C: tl.constexpr,
    K: tl.constexpr,
    GROUP: tl.constexpr,
) -> None:
    """Bits and magnitudes of a chunk's k values as `encode_kernels._quantise` finds them; the rest of them to ``out``.

    ``scales`` holds the lower magnitudes of all chunks, then the upper ones.
    """
    j = tl.arange(0, K)
    there = j < k
    places = tl.load(index + chunk * K + j, mask=there, other=0).to(tl.int32)
    before = tl.load(index + chunk * K + j - 1, mask=there & (j > 0), other=-1).to(tl.int32)
    values = tl.load(out + chunk * C + places, mask=there, other=0.0)
    bits = _magnitude(values)
    exponent = tl.maximum(tl.max(bits, 0) >> 23, 1)
    whole = _whole(bits, exponent)
    n_bytes = tl.where(there, 1 + (places - before - 1) // 255, 0)
    packed = tl.sum(whole + (n_bytes.to(tl.int64) << _SUM_OF_ALL), 0)
    total, n_gaps = packed & (_ONE - 1), (packed >> _SUM_OF_ALL).to(tl.int32)
    tl.store(gap_bytes + chunk, n_gaps)
    tl.atomic_add(groups + chunk // GROUP, n_gaps, sem="relaxed")

    split = _mean(total, k).to(tl.int64)
    above, n_above = _parted(whole, split)
    if n_above > 0:
        split = (_mean(total - above, k - n_above).to(tl.int64) + _mean(above, n_above).to(tl.int64)) // 2
        above, n_above = _parted(whole, split)
    low = _mean(total - above, k - n_above)
    high = tl.where(n_above > 0, _mean(above, n_above), low)
    mark = whole > split
    least_low, least_high = _whole(floor, exponent), split + 1
    # bounds are mostly enough to see that the least do not matter
    if (8.0 * low > (15 * least_low).to(tl.float64)) | (8.0 * high > (15 * least_high).to(tl.float64)):
        least_low = tl.min(tl.where(there & (whole <= split), whole, _HUGE), 0)
        least_high = tl.min(tl.where(mark, whole, _HUGE), 0)
        least_high = tl.where(n_above > 0, least_high, least_low)
    low = tl.minimum(low, (15 * least_low).to(tl.float64) / 8.0)
    high = tl.minimum(high, (15 * least_high).to(tl.float64) / 8.0)
    low = tl.where(low * 16384.0 < split.to(tl.float64), 0.0, low)
    unit = ((1023 + exponent - 127 - _SUM_BITS).to(tl.int64) << 52).to(tl.float64, bitcast=True)
    low_bits, high_bits = _to_bf16((low * unit).to(tl.float32)), _to_bf16((high * unit).to(tl.float32))
    tl.store(scales + chunk, low_bits.to(tl.int16))
    tl.store(scales + tl.num_programs(0) + chunk, high_bits.to(tl.int16))

    negative = values < 0
    sent = tl.where(mark, _from_bf16(high_bits), _from_bf16(low_bits))
    tl.store(out + chunk * C + places, values - tl.where(negative, -sent, sent), mask=there)
    byte = tl.arange(0, K // 8)
    both = negative.to(tl.int32) | (mark.to(tl.int32) << 8)
    both_bytes = tl.sum(tl.reshape(both, (K // 8, 8)) << tl.arange(0, 8)[None, :], 1)
    tl.store(signs + chunk * (K // 8) + byte, (both_bytes & 0xFF).to(tl.uint8))
    tl.store(marks + chunk * (K // 8) + byte, (both_bytes >> 8).to(tl.uint8))


@kernel
def _keep(
    delta: tl.tensor,
    old: tl.tensor,
    out: tl.tensor,
    index: tl.tensor,
    signs: tl.tensor,
    marks: tl.tensor,
    scales: tl.tensor,
    gap_bytes: tl.tensor,
    groups: tl.tensor,
    unfit: tl.tensor,
    n: tl.tensor,
    reach: tl.tensor,
    has_old: tl.constexpr,
    C: tl.constexpr,
    K: tl.constexpr,
    SLOPE: tl.constexpr,
    GROUP: tl.constexpr,
) -> None:
    """A chunk's sum, its k largest values and their codes, and what the codes leave of them.

    As on the CPU a threshold on the bit patterns is narrowed by counting, here until it tells exactly k; the chunk
    stays in registers meanwhile. What is kept is listed in bits first, as a scan over 8192 flags takes a barrier more
    and registers that other programs need.
    """
    chunk = tl.program_id(0).to(tl.int64)
    start = chunk * C
    size = tl.minimum(n - start, C).to(tl.int32)
    k = (size * K + C - 1) // C
    at = tl.arange(0, C)
    p = _input(delta + start, old + start, at, size, C, has_old)
    _store(out + start, at, p, size, C)
    p = tl.where(tl.abs(p) < _LIMIT, p, _LIMIT)  # NaN as well
    mean = tl.sum(tl.abs(p) * (1.0 / C), 0) / (size.to(tl.float32) / C)
    if mean >= _LIMIT / (2 * C):  # else there is no such value
        _refuse(tl.max(_magnitude(p), 0), unfit)
    guess = (mean * reach).to(tl.int32, bitcast=True)
    low, high, n_above, count = _narrowed(tl.abs(p), size, k, guess, SLOPE)
    words = _kept(tl.abs(p), low, high, count, n_above, k, C)
    _list(words, index + chunk * K, C)
    tl.debug_barrier()
    _quantised(out, index, chunk, k, low, signs, marks, scales, gap_bytes, groups, C, K, GROUP)


@kernel
def _write_gaps(
    index: tl.tensor,
    gap_bytes: tl.tensor,
    groups: tl.tensor,
    n_gaps: tl.tensor,
    gaps: tl.tensor,
    n: tl.tensor,
    C: tl.constexpr,
    K: tl.constexpr,
    GROUP: tl.constexpr,
) -> None:
    """``gap // 255`` bytes of 255 and one of ``gap % 255`` for every gap of a chunk, behind those of chunks before."""
    chunk = tl.program_id(0).to(tl.int64)
    k = (tl.minimum(n - chunk * C, C).to(tl.int32) * K + C - 1) // C
    j = tl.arange(0, K)
    places = tl.load(index + chunk * K + j, mask=j < k, other=0).to(tl.int32)
    before = tl.load(index + chunk * K + j - 1, mask=(j < k) & (j > 0), other=-1).to(tl.int32)
    group = (chunk // GROUP).to(tl.int32)
    i = tl.arange(0, GROUP)
    member = group * GROUP + i
    own = tl.load(gap_bytes + member, mask=member < chunk, other=0)
    for first in range(0, group, GROUP):
        own += tl.load(groups + first + i, mask=first + i < group, other=0)
    start = tl.sum(own.to(tl.int64), 0)
    gap = places - before - 1
    over = tl.where(j < k, gap // 255, 0)
    last = start + tl.cumsum(tl.where(j < k, 1 + over, 0), 0) - 1
    tl.store(gaps + last, (gap % 255).to(tl.uint8), mask=j < k)
    most = tl.max(over, 0)
    for back in range(1, most + 1):
        tl.store(gaps + last - back, 255, mask=over >= back)
    if chunk == tl.num_programs(0) - 1:
        tl.store(n_gaps, (start + tl.load(gap_bytes + chunk)).to(tl.int32))


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
    n = out_P.numel()
    n_chunks = -(-n // chunk)
    grid = (n_chunks,)
    zeros = torch.zeros(2 + -(-n_chunks // _GROUP), dtype=torch.int32, device=out_P.device)
    unfit, n_gaps, groups = zeros[:1], zeros[1:2], zeros[2:]
    index = out_P.new_empty(n_chunks * k, dtype=torch.int16)
    gap_bytes = out_P.new_empty(n_chunks, dtype=torch.int32)
    signs = out_P.new_empty(n_chunks * k // 8, dtype=torch.uint8)
    marks = torch.empty_like(signs)
    scales = out_P.new_empty(2 * n_chunks, dtype=torch.int16)
    # room for the most bytes there can be, for their number is not known on the host
    gaps = out_P.new_empty(n_chunks * (k + chunk // 255), dtype=torch.uint8)
    # guesses: the threshold of Gaussian values, and the power of it that counts fall with
    reach = _GAUSS * NormalDist().inv_cdf(1 - 0.5 * k / chunk)
    few = 1 if k <= 256 else 4
    old = delta_P if old_P is None else old_P
    slope = 4.0 if k >= 512 else 5.5
    done = (signs, marks, scales, gap_bytes, groups)
    with torch.cuda.device(out_P.get_device()):
        _keep[grid](
            delta_P,
            old,
            out_P,
            index,
            *done,
            unfit,
            n,
            reach,
            has_old=old_P is not None,
            C=chunk,
            K=k,
            SLOPE=slope,
            GROUP=_GROUP,
            num_warps=8,
            maxnreg=64,  # four programs share a multiprocessor: one computes while others load
            **_EXACT,
        )
        _write_gaps[grid](
            index, gap_bytes, groups, n_gaps, gaps, n, C=chunk, K=k, GROUP=_GROUP, num_warps=few, **_EXACT
        )
    return gaps, n_gaps, signs, marks, scales, unfit


def _flag(like: Tensor) -> Tensor:
    return torch.zeros(1, dtype=torch.int32, device=like.device)
