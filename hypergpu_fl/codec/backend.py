"""The backends that encode values: in memory here, on a GPU in `hypergpu_fl.codec.device`.

A backend turns ``p = delta + old residual`` into integers and collects what they leave out: the new residual.
`HostBackend` works in memory with compiled kernels; `hypergpu_fl.codec.device.tensors.DeviceBackend` does the same on
a GPU, with the same result to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from hypergpu_fl.codec.errors import NotFinite
from hypergpu_fl.codec.format.words import BlockCodes, KeptValues, Word, kept_in
from hypergpu_fl.codec.threads import ordered_map
from strategies.model.layout import Vector

CHUNKS_A_TASK = 64

V = TypeVar("V", covariant=True)  # a vector in memory, or a tensor


class Backend(Protocol[V]):
    """What a level asks of a backend. Every value is encoded exactly once.

    Ranges are requested from several threads. The host encodes each range in the thread that asks for it. A GPU encodes
    all values at once in the caller's thread, which owns the stream, and the threads only fetch the result.
    """

    @property
    def size(self) -> int:
        """Number of values."""
        ...

    @property
    def residual(self) -> V:
        """What was left out of the values; complete once all of them are encoded."""
        ...

    def words(self, word: Word) -> Callable[[int, int], NDArray[Any]]:
        """Take values ``start..stop`` as unsigned integers holding ``word``'s bits."""
        ...

    def blocks(self, block: int, largest: int) -> Callable[[int, int], BlockCodes]:
        """Take codes of values ``start..stop`` and one bfloat16 scale a block; ``start`` is a multiple of ``block``."""
        ...

    def topk(self, chunk: int, k: int) -> KeptValues:
        """Keep the k largest of every chunk."""
        ...


def unfit() -> NotFinite:
    """The error for values that no level can encode."""
    return NotFinite(
        "values to encode hold NaN, Inf or a magnitude of 2**120 or more",
        "lower the learning rate, or scale inputs and targets",
    )


class HostBackend:
    """Values in memory.

    Parameters
    ----------
    delta : Vector
        The update.
    old : Vector or None
        The residual so far.
    out : Vector
        Where the new residual goes; may be ``old`` itself.
    """

    def __init__(self, delta: Vector, old: Vector | None, out: Vector) -> None:
        self._delta = delta
        self._old = np.empty(0, dtype=np.float32) if old is None else old
        self._out = out

    @property
    def size(self) -> int:
        """Number of values."""
        return self._out.size

    @property
    def residual(self) -> Vector:
        """See `Backend.residual`."""
        return self._out

    def words(self, word: Word) -> Callable[[int, int], NDArray[Any]]:
        """See `Backend.words`."""
        return partial(self._words, word)

    def blocks(self, block: int, largest: int) -> Callable[[int, int], BlockCodes]:
        """See `Backend.blocks`."""
        return partial(self._blocks, block, largest)

    def _words(self, word: Word, start: int, stop: int) -> NDArray[Any]:
        from hypergpu_fl.codec.kernels import encode_kernels

        if word is not Word.FP32:
            halves = np.empty(stop - start, dtype=np.uint16)
            if not encode_kernels.halves(self._delta, self._old, self._out, start, stop, word is Word.BF16, halves):
                raise unfit()
            return halves
        bits = np.empty(stop - start, dtype=np.uint32)
        if not encode_kernels.whole(self._delta, self._old, self._out, start, stop, bits):
            raise unfit()
        return bits

    def _blocks(self, block: int, largest: int, start: int, stop: int) -> BlockCodes:
        from hypergpu_fl.codec.kernels import encode_kernels

        codes = np.empty(stop - start, dtype=np.int8)
        scales = np.empty(-(-(stop - start) // block), dtype=np.uint16)
        if not encode_kernels.blocks(self._delta, self._old, self._out, start, stop, block, largest, codes, scales):
            raise unfit()
        return codes, scales

    def topk(self, chunk: int, k: int) -> KeptValues:
        """See `Backend.topk`."""
        from hypergpu_fl.codec.kernels import encode_kernels

        n_chunks = -(-self.size // chunk)
        n_bits = -(-kept_in(self.size, chunk, k) // 8)
        signs, marks = np.zeros(n_bits, dtype=np.uint8), np.zeros(n_bits, dtype=np.uint8)
        low, high = np.empty(n_chunks, dtype=np.uint16), np.empty(n_chunks, dtype=np.uint16)

        def encode(first: int) -> NDArray[np.uint8]:
            last = min(first + CHUNKS_A_TASK, n_chunks)
            gaps = np.empty((last - first) * (k + chunk // 255 + 1), dtype=np.uint8)
            used = encode_kernels.topk(
                self._delta, self._old, self._out, chunk, k, first, last, gaps, signs, marks, low, high
            )
            if used < 0:
                raise unfit()
            return gaps[:used]

        # k is a multiple of 8, so tasks never share a byte of the bit planes
        parts = list(ordered_map(encode, range(0, n_chunks, CHUNKS_A_TASK)))
        return KeptValues(np.concatenate(parts or [np.empty(0, dtype=np.uint8)]), signs, marks, low, high)
