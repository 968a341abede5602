"""The largest values of every chunk, found and coded by one GPU kernel that keeps the chunk in registers meanwhile.

N = chunks, C = chunk length, K = values kept a chunk. See `hypergpu_fl.codec.device_kernels`.
"""

from __future__ import annotations

from statistics import NormalDist

import torch
import triton.language as tl
from torch import Tensor

from hypergpu_fl.codec.device_pieces import (
    EXACT,
    TOO_LARGE,
    from_bf16,
    kernel,
    load_sum,
    magnitude_of,
    refuse,
    store_part,
    to_bf16,
)

_SUM_BITS = tl.constexpr(40)
_HUGE = tl.constexpr(1 << 50)
_GROUP = 128  # chunks whose gap bytes are counted together
_LIMIT = tl.constexpr(2.0**120)
_SUM_OF_ALL = tl.constexpr(52)  # bits that hold the sum of 1024 magnitudes; a count stands above them
_ONE = tl.constexpr(1 << 52)
_GAUSS = (torch.pi / 2) ** 0.5  # standard deviation over mean magnitude of Gaussian values


@kernel
def _narrowed(sizes: tl.tensor, count: tl.tensor, k: tl.tensor, guess: tl.tensor, SLOPE: tl.constexpr) -> tl.tensor:
    """Bounds of a threshold that ``k`` reach, and how many reach the upper and the lower one.

    Counts the sizes that reach two thresholds at a time, which enclose what is sought as narrowly as chance allows.
    Where equal ones make it more than ``k``, the bounds meet, and the lower one is theirs. Sizes of 0 may stand behind
    those that ``count`` tells of.
    """
    low, high, n_above, tries = guess * 0, guess * 0 + (TOO_LARGE + 1), guess * 0, guess * 0
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
        if (low > 0) & (high < TOO_LARGE):
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
    bits = magnitude_of(values)
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
    low_bits, high_bits = to_bf16((low * unit).to(tl.float32)), to_bf16((high * unit).to(tl.float32))
    tl.store(scales + chunk, low_bits.to(tl.int16))
    tl.store(scales + tl.num_programs(0) + chunk, high_bits.to(tl.int16))

    negative = values < 0
    sent = tl.where(mark, from_bf16(high_bits), from_bf16(low_bits))
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
    p = load_sum(delta + start, old + start, at, size, C, has_old)
    store_part(out + start, at, p, size, C)
    p = tl.where(tl.abs(p) < _LIMIT, p, _LIMIT)  # NaN as well
    mean = tl.sum(tl.abs(p) * (1.0 / C), 0) / (size.to(tl.float32) / C)
    if mean >= _LIMIT / (2 * C):  # else there is no such value
        refuse(tl.max(magnitude_of(p), 0), unfit)
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
            **EXACT,
        )
        _write_gaps[grid](index, gap_bytes, groups, n_gaps, gaps, n, C=chunk, K=k, GROUP=_GROUP, num_warps=few, **EXACT)
    return gaps, n_gaps, signs, marks, scales, unfit
