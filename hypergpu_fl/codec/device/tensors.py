"""The same bytes, made where the update lies: on a GPU, or wherever torch computes.

P = values, M = main values, S = statistics, B = blocks. Only codes, bits and gaps travel to the host, never the dense
update. On a GPU the kernels of `hypergpu_fl.codec.device.kernels` encode; elsewhere, or where Triton does not run, the
operations of `hypergpu_fl.codec.device.operations` do. Both give the same bytes as the CPU's `encode_kernels`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from logging import getLogger
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hypergpu_fl.codec.backend import unfit
from hypergpu_fl.codec.decoder import Decoded
from hypergpu_fl.codec.device import operations
from hypergpu_fl.codec.encoder import assemble
from hypergpu_fl.codec.format.blob import FRAME_WORDS
from hypergpu_fl.codec.format.bodies import Blocks, Dense, Sparse
from hypergpu_fl.codec.format.runs import runs_of
from hypergpu_fl.codec.format.words import BlockCodes, KeptValues, Word
from hypergpu_fl.codec.levels import level
from strategies.errors import LayoutError
from strategies.model.layout import Arrays, Layout, Run

_LOG = getLogger(__name__)
_INT32_MAX = (1 << 31) - 1
_PIECE = 16 * FRAME_WORDS  # values that travel to a device at once


class Kernels(Protocol):
    """Functions that encode whole tensors; see `hypergpu_fl.codec.device.operations`."""

    def words(self, delta_P: Tensor, old_P: Tensor | None, out_P: Tensor, word: Word) -> tuple[Tensor, Tensor]:
        """Bits of all values."""
        ...

    def blocks(
        self, delta_P: Tensor, old_P: Tensor | None, out_P: Tensor, block: int, largest: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Codes and scales of all blocks."""
        ...

    def topk(self, delta_P: Tensor, old_P: Tensor | None, out_P: Tensor, chunk: int, k: int) -> tuple[Tensor, ...]:
        """Gaps, bits and magnitudes of all chunks, as `kept` takes them."""
        ...

    def kept(self, contents: Sequence[NDArray[Any]], size: int, chunk: int, k: int) -> KeptValues:
        """What `topk` returned for ``size`` values, once it is on the host."""
        ...


def encode_tensor(
    name: str,
    delta_P: Tensor,
    residual_P: Tensor | None,
    layout: Layout,
    buffers: Arrays,
    *,
    base: int,
    out: Tensor | None = None,
    kernels: Kernels | None = None,
) -> tuple[bytes, Tensor]:
    """Like `hypergpu_fl.codec.encoder.encode_with_feedback`, for flat float32 tensors on any device.

    ``kernels`` are the fastest that run there, unless others are given.
    """
    chosen = level(name)
    delta_P, old_P = _checked(delta_P, layout), None if residual_P is None else _checked(residual_P, layout)
    new_P = torch.empty_like(delta_P) if out is None else out
    kernels = kernels or kernels_for(delta_P.device)
    apart = runs_of(layout)

    def values_of(runs: tuple[Run, ...]) -> DeviceBackend:
        old = None if old_P is None else _take(old_P, runs)
        return DeviceBackend(_take(delta_P, runs), old, _take(new_P, runs), kernels)

    blob, residuals = assemble(chosen, values_of(apart.main), values_of(apart.statistics), layout, buffers, base)
    for runs, left in zip((apart.main, apart.statistics), residuals, strict=True):
        if left is not new_P:
            _put(new_P, runs, left)
    return blob, new_P


def kernels_for(device: torch.device) -> Kernels:
    """The fastest kernels that run on a device."""
    return _compiled(device) if device.type == "cuda" else operations


@cache
def _compiled(device: torch.device) -> Kernels:
    try:
        from hypergpu_fl.codec.device import kernels

        one = torch.ones(1, device=device)
        kernels.words(one, None, torch.empty_like(one), Word.FP32)
        return kernels
    except Exception as error:  # many kinds: Triton, a C compiler, Python's headers or a cache may be missing
        _LOG.warning(
            "updates are encoded on %s by torch's operations, at a fifth of the speed: Triton does not run here: %s",
            device,
            error,
        )
        return operations


def add_to_tensor(update: Decoded, total_P: Tensor, weight: float) -> None:
    """Like `Decoded.add_to`, for a tensor on any device: only the update's own content travels to the device."""
    main, device = update.main, total_P.device
    if isinstance(main, Sparse):
        index = torch.from_numpy(main.index.view(np.int32)).to(device)
        if total_P.numel() > _INT32_MAX:
            index = index.long() & 0xFFFFFFFF
        total_P.index_add_(0, index, torch.from_numpy(main.value).to(device), alpha=weight)
    elif isinstance(main, Blocks):
        codes = torch.from_numpy(main.codes).to(device)
        scales_B1 = torch.from_numpy(main.scales.view(np.int16)).to(device).view(torch.bfloat16).float()[:, None]
        scales_B1 *= weight
        whole = codes.numel() // main.block  # full blocks; a shorter one may follow
        values = torch.cat(
            [
                (codes[: whole * main.block].view(-1, main.block) * scales_B1[:whole]).view(-1),
                codes[whole * main.block :] * scales_B1[whole:].view(-1),
            ]
        )
        _add(total_P, update.runs.main, values)
    else:
        _add_words(total_P, update.runs.main, main, weight)
    _add_words(total_P, update.runs.statistics, update.statistics, weight)


class DeviceBackend:
    """Values of tensors. See `hypergpu_fl.codec.backend.Backend`.

    Parameters
    ----------
    delta, old, out : Tensor, Tensor or None, Tensor
        As those of `hypergpu_fl.codec.backend.HostBackend`, on one device.
    kernels : Kernels
        What encodes them.
    """

    def __init__(self, delta: Tensor, old: Tensor | None, out: Tensor, kernels: Kernels) -> None:
        self._tensors = (delta, old, out)
        self._kernels = kernels

    @property
    def size(self) -> int:
        """Number of values."""
        return self._tensors[0].numel()

    @property
    def residual(self) -> Tensor:
        """See `Backend.residual`."""
        return self._tensors[2]

    def words(self, word: Word) -> Callable[[int, int], NDArray[Any]]:
        """See `Backend.words`."""
        if not self.size:
            return lambda start, stop: np.empty(0, dtype=f"u{word.width}")
        bits, flags = _fetched(*self._kernels.words(*self._tensors, word))
        _check(flags)
        return lambda start, stop: bits[start:stop].view(f"u{word.width}")

    def blocks(self, block: int, largest: int) -> Callable[[int, int], BlockCodes]:
        """See `Backend.blocks`."""
        if not self.size:
            return lambda start, stop: (np.empty(0, dtype=np.int8), np.empty(0, dtype=np.uint16))
        codes, scales, flags = _fetched(*self._kernels.blocks(*self._tensors, block, largest))
        _check(flags)
        scales = scales.view(np.uint16)
        return lambda start, stop: (codes[start:stop], scales[start // block : -(-stop // block)])

    def topk(self, chunk: int, k: int) -> KeptValues:
        """See `Backend.topk`."""
        if not self.size:
            empty = np.empty(0, dtype=np.uint8)
            return KeptValues(empty, empty, empty, empty.astype(np.uint16), empty.astype(np.uint16))
        contents = _fetched(*self._kernels.topk(*self._tensors, chunk, k))
        return self._kernels.kept(contents, self.size, chunk, k)


def _fetched(*tensors: Tensor) -> list[NDArray[Any]]:
    """Tensors on the host; the GPU is waited for once."""
    arrived = [tensor.to("cpu", non_blocking=True) for tensor in tensors]
    if tensors[0].is_cuda:
        torch.cuda.current_stream(tensors[0].device).synchronize()
    return [tensor.numpy() for tensor in arrived]


def _check(flags: NDArray[Any]) -> None:
    if flags.any():
        raise unfit()


def _checked(values_P: Tensor, layout: Layout) -> Tensor:
    if values_P.shape != (layout.size,) or values_P.dtype != torch.float32:
        found = f"{values_P.dtype} of shape {tuple(values_P.shape)}"
        raise LayoutError(f"tensor is {found}, expected float32 ({layout.size},)")
    return values_P.contiguous()


def _take(values_P: Tensor, runs: tuple[Run, ...]) -> Tensor:
    """Values of the runs, one after the other; the tensor itself where one run covers it."""
    if runs == ((0, values_P.numel()),):
        return values_P
    return torch.cat([values_P[start:stop] for start, stop in runs] or [values_P[:0]])


def _add_words(total_P: Tensor, runs: tuple[Run, ...], dense: Dense, weight: float) -> None:
    """Add piece by piece, so that neither the host nor the device holds more than one piece of the update."""
    kinds = {Word.FP32: torch.float32, Word.FP16: torch.float16, Word.BF16: torch.bfloat16}
    at = 0
    for start, stop in runs:
        for first in range(start, stop, _PIECE):
            part_P = total_P[first : min(first + _PIECE, stop)]
            words = dense.planes.words(at, at + part_P.numel()).view(f"i{dense.word.width}")
            part_P.add_(torch.from_numpy(words).to(total_P.device).view(kinds[dense.word]), alpha=weight)
            at += part_P.numel()


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
