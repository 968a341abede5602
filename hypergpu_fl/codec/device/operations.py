"""Encoding with torch's own operations, on any device that torch computes on. It needs no compiler, but more memory.

N = chunks, C = chunk length, K = values kept a chunk, B = blocks, P = values. Each operation here is one that rounds
as its compiled counterpart in `hypergpu_fl.codec.kernels.encode_kernels`: float32 additions, divisions of tensor by
tensor (torch multiplies by the reciprocal of a scalar), rounding to even, and sums of integers.

Every function but `kept` takes the update, the residual so far (None: nothing) and a tensor that becomes the new
residual, which may be the old one. `words` and `blocks` return flags last, which are not 0 where a value does not fit;
the functions here check the values first and raise instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hypergpu_fl.codec.backend import unfit
from hypergpu_fl.codec.format.words import KeptValues, Word

_HALF_MAX = 65504.0
_TOO_LARGE = (127 + 120) << 23
_SUM_BITS = 40
_HUGE = 1 << 50


def words(delta_P: Tensor, old_P: Tensor | None, out_P: Tensor, word: Word) -> tuple[Tensor, Tensor]:
    """Bits of every value as int32 or int16, and flags."""
    flag = _input(delta_P, old_P, out_P)
    if word is Word.FP32:
        bits_P = out_P.view(torch.int32).clone()
        out_P.zero_()
        return bits_P, flag
    half = word is Word.FP16
    rounded_P = out_P.clamp(-_HALF_MAX, _HALF_MAX).to(torch.float16) if half else out_P.to(torch.bfloat16)
    out_P -= rounded_P.float()
    return rounded_P.view(torch.int16), flag


def blocks(
    delta_P: Tensor, old_P: Tensor | None, out_P: Tensor, block: int, largest: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Codes as int8, bits of the bfloat16 scales as int16, and flags."""
    flag = _input(delta_P, old_P, out_P)
    padded = torch.nn.functional.pad(out_P, (0, -out_P.numel() % block)).view(-1, block)
    peak_B = padded.abs().amax(1)
    scale_B = (peak_B / torch.full_like(peak_B, largest)).to(torch.bfloat16)
    scale = scale_B.float()[:, None]
    codes = (padded / torch.where(scale == 0, torch.ones_like(scale), scale)).round().clamp(-largest, largest)
    rest = torch.where(scale == 0, padded, padded - codes * scale)
    codes = torch.where(scale == 0, torch.zeros_like(codes), codes)
    out_P.copy_(rest.view(-1)[: out_P.numel()])
    return codes.to(torch.int8).view(-1)[: out_P.numel()], scale_B.view(torch.int16), flag


def topk(delta_P: Tensor, old_P: Tensor | None, out_P: Tensor, chunk: int, k: int) -> tuple[Tensor, ...]:
    """Gap bytes, sign and mark bits in bytes, bits of lower and of upper magnitudes: what `kept` takes."""
    _input(delta_P, old_P, out_P)
    size = out_P.numel()
    whole = size - size % chunk
    found = []
    if whole:
        found.append(_topk(out_P[:whole].view(-1, chunk), k))
    if size > whole:
        rest = size - whole
        found.append(_topk(out_P[whole:].view(1, rest), -(-rest * k // chunk)))
    gaps, signs, marks, low, high = (torch.cat(parts) for parts in zip(*found, strict=True))
    return _gap_bytes(gaps), _packed(signs), _packed(marks), low.view(torch.int16), high.view(torch.int16)


def kept(contents: Sequence[NDArray[Any]], size: int, chunk: int, k: int) -> KeptValues:
    """What `topk` returned for ``size`` values, once it is on the host."""
    gaps, signs, marks, low, high = contents
    return KeptValues(gaps, signs, marks, low.view(np.uint16), high.view(np.uint16))


def _input(delta_P: Tensor, old_P: Tensor | None, out_P: Tensor) -> Tensor:
    if old_P is None:
        out_P.copy_(delta_P)
    else:
        torch.add(delta_P, old_P, out=out_P)
    if int(_magnitude(out_P).max()) >= _TOO_LARGE:
        raise unfit()
    return torch.zeros(1, dtype=torch.int32, device=out_P.device)


def _topk(p_NC: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gaps, signs and marks of all kept values, and both magnitudes of every chunk; p becomes the residual."""
    bits_NC = _magnitude(p_NC)
    kth_N1 = bits_NC.topk(k, dim=1, sorted=False).values.amin(1, keepdim=True)
    above_NC, ties_NC = bits_NC > kth_N1, bits_NC == kth_N1
    room_N1 = k - above_NC.sum(1, keepdim=True)
    kept_NC = above_NC | (ties_NC & (ties_NC.cumsum(1) <= room_N1))
    index_NK = kept_NC.nonzero()[:, 1].view(-1, k)
    value_NK = p_NC.gather(1, index_NK)
    low_N, high_N, mark_NK = _magnitudes(value_NK, bits_NC.amax(1))
    sent_NK = torch.where(mark_NK, high_N.float()[:, None], low_N.float()[:, None])
    negative_NK = value_NK < 0
    p_NC.scatter_(1, index_NK, value_NK - torch.where(negative_NK, -sent_NK, sent_NK))
    first_N1 = torch.full_like(index_NK[:, :1], -1)
    gap_NK = index_NK.diff(dim=1, prepend=first_N1) - 1
    return gap_NK.view(-1), negative_NK.view(-1), mark_NK.view(-1), low_N, high_N


def _magnitudes(value_NK: Tensor, top_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Two magnitudes a chunk and which values take the upper one: `_quantise` of the kernels, for all chunks."""
    k = value_NK.shape[1]
    exponent_N = (top_N >> 23).clamp(min=1).long() - 127
    scale_N = ((_SUM_BITS - exponent_N + 1023) << 52).view(torch.float64)
    whole_NK = (value_NK.abs().double() * scale_N[:, None]).long()
    total_N = whole_NK.sum(1)
    following_N = total_N // k
    huge = torch.full_like(whole_NK, _HUGE)
    for _ in range(2):
        split_N = following_N
        mark_NK = whole_NK > split_N[:, None]
        above_N, n_above_N = torch.where(mark_NK, whole_NK, 0).sum(1), mark_NK.sum(1)
        n_safe_N = n_above_N.clamp(min=1)
        middle_N = ((total_N - above_N) // (k - n_above_N) + above_N // n_safe_N) // 2
        following_N = torch.where(n_above_N > 0, middle_N, split_N)
    least_low_N = torch.where(mark_NK, huge, whole_NK).amin(1)
    least_high_N = torch.where(mark_NK, whole_NK, huge).amin(1)
    low_N = (total_N - above_N).double() / (k - n_above_N).double()
    one_sided = n_above_N == 0
    high_N = torch.where(one_sided, low_N, above_N.double() / n_safe_N.double())
    least_high_N = torch.where(one_sided, least_low_N, least_high_N)
    low_N = torch.minimum(low_N, (15 * least_low_N).double() / 8.0)
    high_N = torch.minimum(high_N, (15 * least_high_N).double() / 8.0)
    low_N = torch.where(low_N * 16384.0 < split_N.double(), torch.zeros_like(low_N), low_N)
    return (low_N / scale_N).float().bfloat16(), (high_N / scale_N).float().bfloat16(), mark_NK


def _gap_bytes(gaps: Tensor) -> Tensor:
    """``gap // 255`` bytes of 255 and one of ``gap % 255``, for every gap."""
    ends = (gaps // 255 + 1).cumsum(0)
    content = torch.full((int(ends[-1]),), 255, dtype=torch.uint8, device=gaps.device)
    content[ends - 1] = (gaps % 255).to(torch.uint8)
    return content


def _packed(flags: Tensor) -> Tensor:
    """Bits to bytes, the least significant first."""
    padded = torch.nn.functional.pad(flags.to(torch.uint8), (0, -flags.numel() % 8)).view(-1, 8)
    shifts = torch.arange(8, dtype=torch.uint8, device=flags.device)
    return (padded << shifts).sum(1, dtype=torch.uint8)


def _magnitude(values: Tensor) -> Tensor:
    return values.view(torch.int32) & 0x7FFFFFFF
