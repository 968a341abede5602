"""What the GPU kernels share: loads and stores, magnitudes, bfloat16, and the flags of values that do not fit.

`hypergpu_fl.codec.device.kernels` tells what holds for all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

MAGNITUDE = tl.constexpr(0x7FFFFFFF)
TOO_LARGE = tl.constexpr((127 + 120) << 23)  # bits of 2**120: NaN and Inf lie above as well
EXACT = {"enable_fp_fusion": False}  # no product joins the sum after it, whatever the default


def kernel(function: Callable[..., Any]) -> Any:
    """Compile at first launch; once for all sizes, as nothing here gains from knowing more of them."""
    return triton.jit(function, do_not_specialize=["n"])


@kernel
def load_sum(
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
def store_part(out: tl.tensor, at: tl.tensor, content: tl.tensor, size: tl.tensor, full: tl.constexpr) -> None:
    """Store the values at the places below ``size``."""
    if size >= full:
        tl.store(out + at, content)
    else:
        tl.store(out + at, content, mask=at < size)


@kernel
def magnitude_of(values: tl.tensor) -> tl.tensor:
    """Bits without the sign, in the order of the magnitudes; those that do not fit are all alike."""
    return tl.minimum(values.to(tl.int32, bitcast=True) & MAGNITUDE, TOO_LARGE)


@kernel
def tell(top: tl.tensor, unfit: tl.tensor) -> None:
    """Set the program's flag: whether its largest magnitude does not fit."""
    tl.store(unfit + tl.program_id(0), (top >= TOO_LARGE).to(tl.int8))


@kernel
def to_bf16(values: tl.tensor) -> tl.tensor:
    """Bits of the nearest bfloat16, ties to even, as uint32."""
    bits = values.to(tl.uint32, bitcast=True)
    return (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16


@kernel
def from_bf16(bits: tl.tensor) -> tl.tensor:
    """Float32 of a bfloat16's bits."""
    return (bits << 16).to(tl.float32, bitcast=True)


def flags(like: Tensor, programs: int) -> Tensor:
    """Room for the programs' flags beside the values of ``like``: one each, so that none has to be cleared first."""
    return like.new_empty(programs, dtype=torch.int8)
