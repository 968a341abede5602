"""Float32 to and from the 16-bit formats, inlined into the kernels."""

from __future__ import annotations

import numpy as np

from hypergpu_fl.codec.kernels.compiled import inlined


@inlined
def bf16(value: float) -> np.uint16:
    """Nearest bfloat16, ties to even; ``value`` is finite."""
    bits = np.float32(value).view(np.uint32)
    return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


@inlined
def from_bf16(bits: np.uint16) -> np.float32:
    """Float32 of bfloat16 bits."""
    return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)


@inlined
def to_half(bits: np.uint32) -> np.uint16:
    """Nearest float16 of float32 bits, ties to even; beyond 65504 saturates (after Giesen, without branches)."""
    sign = np.uint32(bits & np.uint32(0x80000000))
    size = np.uint32(min(bits & np.uint32(0x7FFFFFFF), np.uint32(0x477FE000)))
    odd = np.uint32((size >> np.uint32(13)) & np.uint32(1))
    normal = np.uint32(np.uint32(size - np.uint32(0x37FFF001) + odd) >> np.uint32(13))
    # adding 0.5 lets the float adder shift and round a subnormal
    shifted = np.float32(size.view(np.float32) + np.float32(0.5))
    small = np.uint32(shifted.view(np.uint32) - np.uint32(0x3F000000))
    return np.uint16((small if size < np.uint32(0x38800000) else normal) | (sign >> np.uint32(16)))


@inlined
def from_half(half: np.uint16) -> np.float32:
    """Float32 of float16 bits, Inf and NaN included."""
    shifted = np.uint32(np.uint32(half & np.uint16(0x7FFF)) << np.uint32(13))
    exponent = np.uint32(shifted & np.uint32(0x0F800000))
    bias = np.uint32(0x70000000) if exponent == np.uint32(0x0F800000) else np.uint32(0x38000000)
    normal = np.uint32(shifted + bias)
    small = np.float32(np.uint32(shifted + np.uint32(0x38800000)).view(np.float32) - np.float32(2.0**-14))
    size = small.view(np.uint32) if exponent == np.uint32(0) else normal
    return np.uint32(size | np.uint32(np.uint32(half & np.uint16(0x8000)) << np.uint32(16))).view(np.float32)
