"""What a blob's values are written as: words, codes of blocks, and the few that are kept of a chunk."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strategies.model.layout import Vector


class Word(StrEnum):
    """A floating-point format sent as it is."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"

    @property
    def width(self) -> int:
        """Bytes a value."""
        return 4 if self is Word.FP32 else 2


@dataclass(frozen=True, slots=True)
class KeptValues:
    """Top-k values of all chunks: see `hypergpu_fl.codec.format.blob` for the meaning of the fields."""

    gaps: NDArray[np.uint8]
    signs: NDArray[np.uint8]
    marks: NDArray[np.uint8]
    low: NDArray[np.uint16]
    high: NDArray[np.uint16]


BlockCodes = tuple[NDArray[np.int8], NDArray[np.uint16]]


def kept_in(size: int, chunk: int, k: int) -> int:
    """How many values are kept of ``size``: k a chunk, ``ceil(n k / chunk)`` of a last one of n values."""
    whole, rest = divmod(size, chunk)
    return whole * k + -(-rest * k // chunk)


def from_word(bits: NDArray[Any], word: Word) -> Vector:
    """Float32 values of a word's bits."""
    from hypergpu_fl.codec.kernels import decode_kernels

    if word is Word.FP32:
        return bits.view(np.float32)
    values = np.empty(bits.size, dtype=np.float32)
    decode_kernels.widen(bits, word is Word.BF16, values)
    return values
