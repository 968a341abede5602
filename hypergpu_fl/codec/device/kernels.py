"""GPU kernels that encode values, compiled by Triton, which torch's CUDA builds bring along.

Shapes: P = values, B = blocks. The top-k kernel is in `hypergpu_fl.codec.device.topk`.

The functions are those of `hypergpu_fl.codec.device.operations`, which knows no compiler, with the same result to the
last bit; but delta and residual are read once and the new residual is written once. None of them waits for the GPU:
values that do not fit are told by flags, which are fetched with the content. Each is a single launch, for on a model
of ten million values a launch takes as long as a tenth of the work.

Only comparisons, IEEE float32 sums and quotients, and sums of integers decide what is sent; whatever else is computed
(the guess of a threshold) may differ between machines, for it only saves passes. The one product that a compiler
could fuse with the difference after it, code times scale, is exact in float32.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from hypergpu_fl.codec.device.pieces import (
    EXACT,
    flags,
    from_bf16,
    kernel,
    load_sum,
    magnitude_of,
    store_part,
    tell,
    to_bf16,
)
from hypergpu_fl.codec.device.topk import kept as kept
from hypergpu_fl.codec.device.topk import topk as topk
from hypergpu_fl.codec.format.words import Word

_SIGN = tl.constexpr(-0x80000000)
_HALF_MAX = tl.constexpr(65504.0)
_ROUNDER = tl.constexpr(float(1 << 23))  # from here on float32 has no fractions: adding it rounds to even
_TILE = 4096  # values a program of `words` and `blocks`
_WARPS = 8  # of `words` and `blocks`: twice the values a thread would take registers that four programs need


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
    p = load_sum(delta + start, old + start, at, size, ROWS * BLOCK, has_old)
    peak = tl.max(magnitude_of(p), 1)
    tell(tl.max(peak, 0), unfit)
    bits = to_bf16(tl.div_rn(peak.to(tl.float32, bitcast=True), tl.full((ROWS,), largest, tl.float32)))
    tl.store(scales + start // BLOCK + row, bits.to(tl.int16), mask=row * BLOCK < size)
    scale = from_bf16(bits)[:, None]
    quotient = tl.div_rn(tl.abs(p), tl.where(scale == 0, 1.0, scale) + tl.zeros_like(p))
    code = tl.minimum((quotient + _ROUNDER) - _ROUNDER, largest)
    code = tl.where(scale == 0, 0.0, code)
    # the sign of a zero as well, for the residual's sake
    code = (code.to(tl.int32, bitcast=True) | (p.to(tl.int32, bitcast=True) & _SIGN)).to(tl.float32, bitcast=True)
    rest = tl.where(scale == 0, p, p - code * scale)
    store_part(codes + start, at, code.to(tl.int8), size, ROWS * BLOCK)
    store_part(out + start, at, rest, size, ROWS * BLOCK)


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
    p = load_sum(delta + start, old + start, at, size, TILE, has_old)
    tell(tl.max(magnitude_of(p), 0), unfit)
    if word == "fp32":
        content = p.to(tl.int32, bitcast=True)
        rest = tl.zeros_like(p)
    elif word == "fp16":
        half = tl.minimum(tl.maximum(p, -_HALF_MAX), _HALF_MAX).to(tl.float16)
        content = half.to(tl.int16, bitcast=True)
        rest = p - half.to(tl.float32)
    else:
        bits = to_bf16(p)
        content = bits.to(tl.int16)
        rest = p - from_bf16(bits)
    store_part(words + start, at, content, size, TILE)
    store_part(out + start, at, rest, size, TILE)


def words(delta_P: Tensor, old_P: Tensor | None, out_P: Tensor, word: Word) -> tuple[Tensor, Tensor]:
    """See `operations.words`."""
    n = out_P.numel()
    programs = -(-n // _TILE)
    unfit = flags(out_P, programs)
    content_P = torch.empty_like(out_P, dtype=torch.int32 if word is Word.FP32 else torch.int16)
    with torch.cuda.device(out_P.get_device()):
        _words[(programs,)](
            delta_P,
            delta_P if old_P is None else old_P,
            out_P,
            content_P,
            unfit,
            n,
            has_old=old_P is not None,
            word=word.value,
            TILE=_TILE,
            num_warps=_WARPS,
            **EXACT,
        )
    return content_P, unfit


def blocks(
    delta_P: Tensor, old_P: Tensor | None, out_P: Tensor, block: int, largest: int
) -> tuple[Tensor, Tensor, Tensor]:
    """See `operations.blocks`."""
    n = out_P.numel()
    programs = -(-n // _TILE)
    unfit = flags(out_P, programs)
    codes_P = torch.empty_like(out_P, dtype=torch.int8)
    scales_B = out_P.new_empty(-(-n // block), dtype=torch.int16)
    with torch.cuda.device(out_P.get_device()):
        _blocks[(programs,)](
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
            **EXACT,
        )
    return codes_P, scales_B, unfit
