"""The same bytes, made where the update lies: on a GPU, or wherever torch computes.

N = chunks, C = chunk length, K = values kept a chunk, B = blocks, P = values. Only codes, bits and gaps travel to the
host, never the dense update. Each operation here is one that rounds as its compiled counterpart in
`hypergpu_fl.codec.encode_kernels`: float32 additions, divisions of tensor by tensor (torch multiplies by the
reciprocal of a scalar), rounding to even, and sums of integers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hypergpu_fl.codec.decoder import Decoded
from hypergpu_fl.codec.encoder import assemble
from hypergpu_fl.codec.levels import level
from hypergpu_fl.codec.parts import Blocks, Dense, Sparse
from hypergpu_fl.codec.spans import Run, spans
from hypergpu_fl.codec.values import HALF_MAX, Kept, Word, unfit
from strategies.errors import LayoutError
from strategies.layout import Arrays, Layout

_TOO_LARGE = (127 + 120) << 23
_SUM_BITS = 40
_HUGE = 1 << 50


def encode_tensor(
    name: str, delta_P: Tensor, residual_P: Tensor | None, layout: Layout, buffers: Arrays, *, base: int
) -> tuple[bytes, Tensor]:
    """As `hypergpu_fl.codec.encoder.encode_with_feedback`, for flat float32 tensors on any device."""
    chosen = level(name)
    p_P = delta_P.clone() if residual_P is None else delta_P + residual_P
    if p_P.shape != (layout.size,) or p_P.dtype != torch.float32:
        raise LayoutError(f"tensor is {p_P.dtype} of shape {tuple(p_P.shape)}, expected float32 ({layout.size},)")
    if p_P.numel() and int(_magnitude(p_P).max()) >= _TOO_LARGE:
        raise unfit()
    parts = spans(layout)
    if not parts.statistics:
        return assemble(chosen, DeviceValues(p_P), DeviceValues(p_P[:0]), layout, buffers, base), p_P
    main_M, statistics_S = _take(p_P, parts.main), _take(p_P, parts.statistics)
    blob = assemble(chosen, DeviceValues(main_M), DeviceValues(statistics_S), layout, buffers, base)
    _put(p_P, parts.main, main_M)
    _put(p_P, parts.statistics, statistics_S)
    return blob, p_P


def add_to_tensor(update: Decoded, total_P: Tensor, weight: float) -> None:
    """As `Decoded.add_to`, for a tensor on any device: only the update's own content travels to it."""
    main, device = update.main, total_P.device
    if isinstance(main, Sparse):
        index = torch.from_numpy(main.index.astype(np.int64)).to(device)
        total_P.index_add_(0, index, weight * torch.from_numpy(main.value).to(device))
    elif isinstance(main, Blocks):
        codes = torch.from_numpy(main.codes).to(device)
        scales = torch.from_numpy(main.scales.view(np.int16)).to(device).view(torch.bfloat16).float() * weight
        each = scales.repeat_interleave(main.block)[: codes.numel()]
        _add(total_P, update.spans.main, codes.float().mul_(each))
    else:
        _add(total_P, update.spans.main, _values(main, device) * weight)
    _add(total_P, update.spans.statistics, _values(update.statistics, device) * weight)


class DeviceValues:
    """Values of a tensor; its content becomes the residual. See `hypergpu_fl.codec.values.Values`."""

    def __init__(self, p_P: Tensor) -> None:
        self._p = p_P

    @property
    def size(self) -> int:
        """Number of values."""
        return self._p.numel()

    def words(self, start: int, stop: int, word: Word) -> NDArray[Any]:
        """See `Values.words`."""
        part = self._p[start:stop]
        if word is Word.FP32:
            bits: NDArray[Any] = part.view(torch.int32).cpu().numpy().view(np.uint32).copy()
            part.zero_()
            return bits
        half = word is Word.FP16
        rounded = part.clamp(-HALF_MAX, HALF_MAX).to(torch.float16) if half else part.to(torch.bfloat16)
        part -= rounded.float()
        return _bits(rounded)

    def blocks(self, start: int, stop: int, block: int, largest: int) -> tuple[NDArray[np.int8], NDArray[np.uint16]]:
        """See `Values.blocks`."""
        part = self._p[start:stop]
        padded = torch.nn.functional.pad(part, (0, -part.numel() % block)).view(-1, block)
        peak_B = padded.abs().amax(1)
        scale_B = (peak_B / torch.full_like(peak_B, largest)).to(torch.bfloat16)
        scale = scale_B.float()[:, None]
        codes = (padded / torch.where(scale == 0, torch.ones_like(scale), scale)).round().clamp(-largest, largest)
        codes = torch.where(scale == 0, torch.zeros_like(codes), codes)
        part -= (codes * scale).view(-1)[: part.numel()]
        return codes.to(torch.int8).view(-1)[: part.numel()].cpu().numpy(), _bits(scale_B)

    def topk(self, chunk: int, k: int) -> Kept:
        """See `Values.topk`."""
        whole = self.size - self.size % chunk
        found = []
        if whole:
            found.append(_topk(self._p[:whole].view(-1, chunk), k))
        if self.size > whole:
            rest = self.size - whole
            found.append(_topk(self._p[whole:].view(1, rest), -(-rest * k // chunk)))
        if not found:
            empty = np.empty(0, dtype=np.uint8)
            return Kept(empty, empty, empty, empty.astype(np.uint16), empty.astype(np.uint16))
        gaps, signs, marks, low, high = (torch.cat(parts) for parts in zip(*found, strict=True))
        return Kept(_gap_bytes(gaps).cpu().numpy(), _packed(signs), _packed(marks), _bits(low), _bits(high))


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


def _packed(flags: Tensor) -> NDArray[np.uint8]:
    """Bits to bytes, the least significant first."""
    padded = torch.nn.functional.pad(flags.to(torch.uint8), (0, -flags.numel() % 8)).view(-1, 8)
    shifts = torch.arange(8, dtype=torch.uint8, device=flags.device)
    content: NDArray[np.uint8] = (padded << shifts).sum(1, dtype=torch.uint8).cpu().numpy()
    return content


def _magnitude(values: Tensor) -> Tensor:
    return values.view(torch.int32) & 0x7FFFFFFF


def _bits(halves: Tensor) -> NDArray[np.uint16]:
    bits: NDArray[np.uint16] = halves.view(torch.int16).cpu().numpy().view(np.uint16)
    return bits


def _values(dense: Dense, device: torch.device) -> Tensor:
    """Float32 values; it is their words that travel."""
    kinds = {Word.FP32: torch.float32, Word.FP16: torch.float16, Word.BF16: torch.bfloat16}
    words = dense.planes.words(0, dense.planes.size).view(np.int32 if dense.word is Word.FP32 else np.int16)
    return torch.from_numpy(words).to(device).view(kinds[dense.word]).float()


def _take(values_P: Tensor, runs: tuple[Run, ...]) -> Tensor:
    return torch.cat([values_P[start:stop] for start, stop in runs] or [values_P[:0]])


def _put(values_P: Tensor, runs: tuple[Run, ...], content: Tensor) -> None:
    at = 0
    for start, stop in runs:
        values_P[start:stop] = content[at : at + stop - start]
        at += stop - start


def _add(total_P: Tensor, runs: tuple[Run, ...], content: Tensor) -> None:
    at = 0
    for start, stop in runs:
        total_P[start:stop] += content[at : at + stop - start]
        at += stop - start
