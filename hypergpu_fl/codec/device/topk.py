"""The largest values of every chunk, found and coded by one GPU kernel that keeps the chunk in registers meanwhile.

C = chunk length, K = values kept a chunk. See `hypergpu_fl.codec.device.kernels`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

from hypergpu_fl.codec.backend import unfit
from hypergpu_fl.codec.device.pieces import (
    EXACT,
    TOO_LARGE,
    from_bf16,
    kernel,
    load_sum,
    magnitude_of,
    store_part,
    to_bf16,
)
from hypergpu_fl.codec.format.words import KeptValues, kept_in

_SUM_BITS = tl.constexpr(40)
_HUGE = tl.constexpr(1 << 50)
_HEADER = tl.constexpr(8)  # bytes of a record before its sign bits
_ALIGNED = 16  # bytes that a record is a multiple of
_LIMIT = tl.constexpr(2.0**120)
_SUM_OF_ALL = tl.constexpr(52)  # bits that hold the sum of 1024 magnitudes; a count stands above them
_ONE = tl.constexpr(1 << 52)
_OCTAVE = tl.constexpr(float(1 << 23))  # by how much a float's bits grow as it doubles
_GAUSS = math.sqrt(math.pi / 2)  # standard deviation over mean magnitude of Gaussian values


@kernel
def _narrowed(sizes: tl.tensor, count: tl.tensor, k: tl.tensor, guess: tl.tensor) -> tl.tensor:
    """Bounds of a threshold that ``k`` reach, and how many reach the upper and the lower one.

    Counts the sizes that reach two thresholds at a time, which enclose what is sought as narrowly as chance allows: a
    count differs from what is expected by its root. Where equal sizes make it more than ``k``, the bounds meet, and
    the lower one is theirs. Sizes of 0 may stand behind those that ``count`` tells of. The factors were found by
    counting rounds on updates of ResNet-18, Gaussian and Student's values.
    """
    low, high, n_above, tries = guess * 0, guess * 0 + (TOO_LARGE + 1), guess * 0, guess * 0
    apart = _OCTAVE / tl.sqrt(k.to(tl.float32))
    # the guess is for Gaussian values, and real ones have longer tails
    lower, upper = guess - (0.3 * apart).to(tl.int32), guess + (5.0 * apart).to(tl.int32)
    while (count > k) & (high - low > 1):
        if tries >= 8:
            # many equal values, zeros above all, are mostly the least or the largest between the bounds
            quarter = tl.maximum((high - low) // 4, 1)
            lower, upper = low + quarter, low + 2 * quarter
            if tries == 8:
                lower = low + 1
                bits = sizes.to(tl.int32, bitcast=True)
                upper = tl.max(tl.where(bits < high, bits, 0), 0)
            if tries == 9:
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
            each = (high - low).to(tl.float32) / (count - n_above).to(tl.float32)
            centre = low + (each * (count - k).to(tl.float32)).to(tl.int32)
            spread = 0.25 * each * tl.sqrt(tl.minimum(count - k, k - n_above).to(tl.float32) + 1.0)
        else:
            # tail counts fall roughly with a power of the threshold: bits of a float are near its logarithm
            power = 4.0
            if (fewer > 0) & (more > fewer):
                power = tl.log2(more.to(tl.float32) / fewer.to(tl.float32)) * _OCTAVE / (upper - lower).to(tl.float32)
                power = tl.minimum(tl.maximum(power, 1.5), 8.0)
            distance = tl.log2(tl.maximum(n_last, 1).to(tl.float32) / k.to(tl.float32)) * _OCTAVE / power
            centre = last + distance.to(tl.int32)
            spread = 0.1 * tl.abs(distance) + 0.25 * apart / power
        lower, upper = centre - spread.to(tl.int32), centre + spread.to(tl.int32)
        tries += 1
    return low, high, n_above, count


@kernel
def _words_of(flags: tl.tensor, C: tl.constexpr) -> tl.tensor:
    """Flags as integers of 32 bits, the first flag the least significant bit, spread evenly over the threads."""
    bits = tl.where(tl.reshape(flags, (C // 32, 32)), 1 << tl.arange(0, 32)[None, :], 0)
    # a sum leaves every integer to eight threads
    return tl.gather(tl.sum(bits, 1), tl.arange(0, C // 32), 0).to(tl.uint32, bitcast=True)


@kernel
def _counted(words: tl.tensor) -> tl.tensor:
    """How many bits are set in every two, in every four and in every eight, each in their place."""
    twos = words - ((words >> 1) & 0x55555555)
    fours = (twos & 0x33333333) + ((twos >> 2) & 0x33333333)
    return twos, fours, (fours + (fours >> 4)) & 0x0F0F0F0F


@kernel
def _ones(words: tl.tensor) -> tl.tensor:
    """How many bits are set."""
    _, _, eights = _counted(words)
    sixteens = eights + (eights >> 8)
    return ((sixteens + (sixteens >> 16)) & 0x3F).to(tl.int32)


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
def _stepped(place: tl.tensor, rank: tl.tensor, ones: tl.tensor, width: tl.constexpr) -> tl.tensor:
    """Where the bit of a rank lies, past the next bits if it is not among their ones, and its rank from there on."""
    past = rank >= ones.to(tl.int32)
    return place + tl.where(past, width, 0), rank - tl.where(past, ones.to(tl.int32), 0)


@kernel
def _places(words: tl.tensor, K: tl.constexpr, HALVINGS: tl.constexpr) -> tl.tensor:
    """Places of the first K of the bits that are set: their words by bisection, then the bits by halves of a word."""
    n_ones = _ones(words)
    ends = tl.cumsum(n_ones, 0)
    rank = tl.arange(0, K)
    word = rank * 0
    for i in tl.static_range(HALVINGS):
        step = 1 << (HALVINGS - 1 - i)
        word += tl.where(tl.gather(ends, word + (step - 1), 0) <= rank, step, 0)
    rank -= tl.gather(ends - n_ones, word, 0)
    bits = tl.gather(words, word, 0)
    twos, fours, eights = _counted(bits)
    place, rank = _stepped(rank * 0, rank, (eights + (eights >> 8)) & 0x1F, 16)
    place, rank = _stepped(place, rank, (eights >> place) & 0xF, 8)
    place, rank = _stepped(place, rank, (fours >> place) & 0xF, 4)
    place, rank = _stepped(place, rank, (twos >> place) & 3, 2)
    place, rank = _stepped(place, rank, (bits >> place) & 1, 1)
    return word * 32 + place


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
def _code(
    values: tl.tensor,
    places: tl.tensor,
    before: tl.tensor,
    k: tl.tensor,
    floor: tl.tensor,
    record: tl.tensor,
    K: tl.constexpr,
) -> tl.tensor:
    """Fill in a chunk's record but for its flag, with magnitudes as `encode_kernels._quantise` finds them.

    Returns the magnitude sent for every value.
    """
    there = tl.arange(0, K) < k
    bits = magnitude_of(values)
    exponent = tl.maximum(tl.max(bits, 0) >> 23, 1)
    whole = _whole(bits, exponent)
    total = tl.sum(whole, 0)
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

    both = (values < 0).to(tl.int32) | (mark.to(tl.int32) << 8)
    both = tl.sum(tl.reshape(both, (K // 8, 8)) << tl.arange(0, 8)[None, :], 1)
    byte = record + _HEADER + tl.arange(0, K // 8)
    tl.store(byte, (both & 0xFF).to(tl.uint8))
    tl.store(byte + K // 8, (both >> 8).to(tl.uint8))
    gap = places - before - 1
    over = tl.where(there, gap // 255, 0)
    end = tl.cumsum(tl.where(there, 1 + over, 0), 0)
    gaps = record + _HEADER + K // 4
    tl.store(gaps + end - 1, (gap % 255).to(tl.uint8), mask=there)
    for back in range(1, 1 + tl.max(over, 0)):
        tl.store(gaps + end - 1 - back, 255, mask=over >= back)
    header = record.to(tl.pointer_type(tl.int16), bitcast=True)
    tl.store(header, low_bits.to(tl.int16))
    tl.store(header + 1, high_bits.to(tl.int16))
    tl.store(header + 2, tl.max(end, 0).to(tl.int16))
    return tl.where(mark, from_bf16(high_bits), from_bf16(low_bits))


@kernel
def _keep(
    delta: tl.tensor,
    old: tl.tensor,
    out: tl.tensor,
    records: tl.tensor,
    n: tl.tensor,
    has_old: tl.constexpr,
    C: tl.constexpr,
    K: tl.constexpr,
    REACH: tl.constexpr,
    HALVINGS: tl.constexpr,
    RECORD: tl.constexpr,
) -> None:
    """A chunk's sum, its k largest values and their codes, and what the codes leave of them.

    As on the CPU a threshold on the bit patterns is narrowed by counting, here until it tells exactly k; the chunk
    stays in registers meanwhile. What is kept is told by bits first, as a scan over 8192 flags takes a barrier more
    and registers that other programs need, and its places are found by search, as a list of them would burden the
    cache with a fifth of what the chunk does.
    """
    chunk = tl.program_id(0).to(tl.int64)
    start = chunk * C
    record = records + chunk * RECORD
    size = tl.minimum(n - start, C).to(tl.int32)
    k = (size * K + C - 1) // C
    p = load_sum(delta + start, old + start, tl.arange(0, C), size, C, has_old)
    store_part(out + start, tl.arange(0, C), p, size, C)
    mean = tl.sum(tl.abs(p), 0) / size.to(tl.float32)
    unfit = tl.full((), 0, tl.int16)
    if not (mean < _LIMIT / (2 * C)):  # NaN and infinity as well; else all values fit
        p = tl.where(tl.abs(p) < _LIMIT, p, _LIMIT)  # no threshold tells NaN from others
        unfit = (tl.max(tl.abs(p), 0) >= _LIMIT).to(tl.int16)
    tl.store(record.to(tl.pointer_type(tl.int16), bitcast=True) + 3, unfit)
    guess = (mean * REACH).to(tl.int32, bitcast=True)
    low, high, n_above, count = _narrowed(tl.abs(p), size, k, guess)
    words = _kept(tl.abs(p), low, high, count, n_above, k, C)
    j = tl.arange(0, K)
    there = j < k
    places = tl.where(there, _places(words, K, HALVINGS), 0)
    before = tl.where(j > 0, tl.gather(places, tl.maximum(j - 1, 0), 0), -1)
    tl.debug_barrier()  # the sums have been stored
    values = tl.load(out + start + places, mask=there, other=0.0)
    sent = _code(values, places, before, k, low, record, K)
    tl.store(out + start + places, values - tl.where(values < 0, -sent, sent), mask=there)


@cache
def _record(chunk: int, k: int) -> np.dtype[Any]:
    """What a chunk is encoded to: the gap bytes have room for the most there can be, as they are written at once."""
    fields = {
        "low": "<u2",
        "high": "<u2",
        "n_gaps": "<u2",
        "unfit": "<u2",
        "signs": f"{k // 8}u1",
        "marks": f"{k // 8}u1",
        "gaps": f"{k + chunk // 255}u1",
    }
    packed = np.dtype(list(fields.items()))
    room = -packed.itemsize % _ALIGNED
    return np.dtype([*fields.items(), ("room", f"{room}u1")])


@cache
def _reach(chunk: int, k: int) -> float:
    """The threshold of k Gaussian values a chunk, over their mean magnitude."""
    return _GAUSS * NormalDist().inv_cdf(1 - 0.5 * k / chunk)


def topk(delta_P: Tensor, old_P: Tensor | None, out_P: Tensor, chunk: int, k: int) -> tuple[Tensor, ...]:
    """See `operations.topk`; here it is one tensor, which holds a record for every chunk."""
    n = out_P.numel()
    n_chunks, record = -(-n // chunk), _record(chunk, k).itemsize
    records = out_P.new_empty(n_chunks * record, dtype=torch.uint8)
    with torch.cuda.device(out_P.get_device()):
        _keep[(n_chunks,)](
            delta_P,
            delta_P if old_P is None else old_P,
            out_P,
            records,
            n,
            has_old=old_P is not None,
            C=chunk,
            K=k,
            REACH=_reach(chunk, k),
            HALVINGS=(chunk // 32).bit_length() - 1,
            RECORD=record,
            num_warps=4,  # what all threads compute alike is computed half as often as with eight
            maxnreg=128,  # four programs share a multiprocessor: one computes while others load
            **EXACT,
        )
    return (records,)


def kept(contents: Sequence[NDArray[Any]], size: int, chunk: int, k: int) -> KeptValues:
    """See `operations.kept`."""
    from hypergpu_fl.codec.kernels import byte_kernels

    (content,) = contents
    kind = _record(chunk, k)
    records = content.view(kind)
    if records["unfit"].any():
        raise unfit()
    gaps = np.empty(records["n_gaps"].sum(), dtype=np.uint8)
    first = kind.itemsize - kind["room"].itemsize - kind["gaps"].itemsize
    byte_kernels.join(content, first, kind.itemsize, np.ascontiguousarray(records["n_gaps"]), gaps)
    n_bytes = -(-kept_in(size, chunk, k) // 8)
    signs, marks = (records[bits].reshape(-1)[:n_bytes] for bits in ("signs", "marks"))
    low, high = (np.ascontiguousarray(records[scales]) for scales in ("low", "high"))
    return KeptValues(gaps, signs, marks, low, high)
