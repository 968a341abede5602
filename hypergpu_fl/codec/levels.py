"""How much smaller: the levels, from lossless to one value in 128.

Each level is a small class behind one protocol: it says what it costs, so that the planner can price it, turns
values into a body and reads the body back. Chunked top-k with two magnitudes follows SparseLoCo
(arXiv:2508.15706) and Deep Gradient Compression (arXiv:1712.01887); what it leaves out is kept by error feedback
(arXiv:1901.09847), see `hypergpu_fl.codec.encoder`.

``expected_ratio`` is logical float32 bytes over wire bytes, measured on updates of ResNet-18 by
`hypergpu_fl.bench.codec`; a model of some thousand parameters reaches less, for its headers weigh more.
``fidelity`` is the share of an update's squared norm that arrives at once, ``1 - |delta - decoded|^2 / |delta|^2``,
measured on first updates (no residual yet) of the MLP and the CNN on MNIST and of ResNet-18 on digits: their mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hypergpu_fl.codec.backend import Backend, V
from hypergpu_fl.codec.errors import Malformed
from hypergpu_fl.codec.format.blob import FRAME_BYTES, RESEND, Reader, Writer
from hypergpu_fl.codec.format.bodies import Blocks, Body, Dense, Sparse
from hypergpu_fl.codec.format.words import Word, kept_in
from hypergpu_fl.codec.threads import ordered_map
from hypergpu_fl.errors import UsageError
from strategies.spelling import did_you_mean

CHUNK = 8192
BF16_INFINITY = 0x7F80


class Level(Protocol):
    """One way to encode main values."""

    @property
    def name(self) -> str:
        """Name in configurations and plans."""
        ...

    @property
    def code(self) -> int:
        """Number in the blob's header."""
        ...

    @property
    def expected_ratio(self) -> float:
        """Logical float32 bytes over wire bytes."""
        ...

    @property
    def fidelity(self) -> float:
        """Share of an update's squared norm that arrives at once."""
        ...

    @property
    def statistics(self) -> Word:
        """How BatchNorm statistics travel."""
        ...

    def write(self, values: Backend[V], body: Writer) -> V:
        """Append the encoded values to ``body``; returns what they leave out, the new residual."""
        ...

    def read(self, body: Reader, size: int) -> Body:
        """Decode ``size`` values; refuses with a `CodecError`."""
        ...


@dataclass(frozen=True, slots=True)
class Words:
    """Every value, as float32 (lossless), float16 or bfloat16; their frames packed losslessly, or plain."""

    name: str
    code: int
    expected_ratio: float
    word: Word
    statistics: Word = Word.FP16
    compress: bool = True
    fidelity: float = 1.0

    def write(self, values: Backend[V], body: Writer) -> V:
        """See `Level.write`."""
        body.words(values.size, self.word.width, values.words(self.word), compress=self.compress)
        return values.residual

    def read(self, body: Reader, size: int) -> Body:
        """See `Level.read`."""
        return Dense(body.planes(size, self.word.width), self.word)


@dataclass(frozen=True, slots=True)
class Integers:
    """Integers of 8 or 4 bits with a bfloat16 scale a block."""

    name: str
    code: int
    expected_ratio: float
    fidelity: float
    bits: int
    block: int
    statistics: Word = Word.FP16

    @property
    def largest(self) -> int:
        """Largest code: 127 or 7; the most negative number stays unused."""
        return (1 << (self.bits - 1)) - 1

    def write(self, values: Backend[V], body: Writer) -> V:
        """See `Level.write`."""
        from hypergpu_fl.codec.kernels import byte_kernels

        span = FRAME_BYTES * 8 // self.bits
        packed = np.empty(-(-values.size * self.bits // 8), dtype=np.uint8)
        get = values.blocks(self.block, self.largest)

        def encode(start: int) -> NDArray[np.uint16]:
            codes, scales = get(start, min(start + span, values.size))
            part = packed[start * self.bits // 8 :]
            if self.bits == 8:
                part[: codes.size] = codes.view(np.uint8)
            else:
                byte_kernels.pack_nibbles(codes, part[: -(-codes.size // 2)])
            return scales

        scales = np.concatenate([np.empty(0, dtype=np.uint16), *ordered_map(encode, range(0, values.size, span))])
        body.words(scales.size, 2, lambda start, stop: scales[start:stop])
        body.raw_bytes(packed)
        return values.residual

    def read(self, body: Reader, size: int) -> Body:
        """See `Level.read`."""
        scales = body.words(-(-size // self.block), 2)
        _check_scales(scales)
        packed = body.raw_bytes(-(-size * self.bits // 8))
        return Blocks(packed.view(np.int8) if self.bits == 8 else _codes(packed, size), scales, self.block)


@dataclass(frozen=True, slots=True)
class TopK:
    """The largest of every chunk of 8192 values: sign and one of two magnitudes each."""

    name: str
    code: int
    expected_ratio: float
    fidelity: float
    share: int
    chunk: int = CHUNK
    statistics: Word = Word.FP16

    @property
    def k(self) -> int:
        """Values kept a chunk."""
        return self.chunk // self.share

    def write(self, values: Backend[V], body: Writer) -> V:
        """See `Level.write`."""
        kept = values.topk(self.chunk, self.k)
        scales = np.concatenate([kept.low, kept.high])
        body.words(scales.size, 2, lambda start, stop: scales[start:stop])
        body.raw_bytes(kept.signs, compress=False)
        body.raw_bytes(kept.marks)
        body.number(kept.gaps.size)
        body.raw_bytes(kept.gaps)
        return values.residual

    def read(self, body: Reader, size: int) -> Body:
        """See `Level.read`."""
        from hypergpu_fl.codec.kernels import decode_kernels

        n_chunks, n_kept = -(-size // self.chunk), kept_in(size, self.chunk, self.k)
        scales = body.words(2 * n_chunks, 2)
        _check_scales(scales)
        signs, marks = body.raw_bytes(-(-n_kept // 8)), body.raw_bytes(-(-n_kept // 8))
        n_gaps = body.number()
        if not n_kept <= n_gaps <= n_kept + size // 255:
            raise Malformed(f"{n_gaps} gap bytes for {n_kept} of {size} values", RESEND)
        gaps = body.raw_bytes(n_gaps)
        index, value = np.empty(n_kept, dtype=np.uint32), np.empty(n_kept, dtype=np.float32)
        low, high = scales[:n_chunks], scales[n_chunks:]
        if decode_kernels.untopk(gaps, signs, marks, low, high, size, self.chunk, self.k, index, value) != n_gaps:
            raise Malformed("gaps leave their chunk or do not end with it", RESEND)
        return Sparse(index, value)


def _codes(packed: NDArray[np.uint8], size: int) -> NDArray[np.int8]:
    """Codes of nibbles."""
    from hypergpu_fl.codec.kernels import byte_kernels

    codes = np.empty(size, dtype=np.int8)

    def unpack(start: int) -> None:
        part = codes[start : start + FRAME_BYTES]
        byte_kernels.unpack_nibbles(packed[start // 2 : (start + part.size + 1) // 2], part)

    for _ in ordered_map(unpack, range(0, size, FRAME_BYTES)):
        pass
    return codes


def _check_scales(scales: NDArray[np.uint16]) -> None:
    if scales.size and scales.max() >= BF16_INFINITY:
        raise Malformed("a scale is negative, infinite or not a number", RESEND)


_ALL: tuple[Level, ...] = (
    Words("raw", 10, 1.0, Word.FP32, statistics=Word.FP32, compress=False),
    Words("fp32", 1, 1.1, Word.FP32, statistics=Word.FP32),
    Words("fp16", 2, 2.3, Word.FP16),
    Words("bf16", 3, 2.8, Word.BF16),
    Integers("int8", 4, 4.2, 1.0, bits=8, block=256),
    Integers("int4", 5, 8.5, 0.98, bits=4, block=128),
    TopK("top8", 11, 38.0, 0.78, 8),
    TopK("top16", 6, 66.0, 0.71, 16),
    TopK("top32", 7, 120.0, 0.6, 32),
    TopK("top64", 8, 205.0, 0.47, 64),
    TopK("top128", 9, 350.0, 0.34, 128),
)
LEVELS: Mapping[str, Level] = {level.name: level for level in _ALL}
BY_CODE: Mapping[int, Level] = {level.code: level for level in _ALL}


def level(name: str) -> Level:
    """Level of this name.

    Raises
    ------
    UsageError
        If there is none; names the closest one.
    """
    if name in LEVELS:
        return LEVELS[name]
    raise UsageError(f"unknown codec level {name!r}{did_you_mean(name, LEVELS)}", f"choose one of {', '.join(LEVELS)}")
