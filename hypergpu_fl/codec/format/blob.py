r"""The blob: one update, or one model, as bytes. Format version 1, little-endian.

======  =====  ============================================================================
offset  bytes  field
======  =====  ============================================================================
0       4      magic ``HGPU``
4       1      format version, 1
5       1      level (`hypergpu_fl.codec.levels`)
6       2      zero
8       16     first half of the layout's SHA-256 (`strategies.model.layout.Layout.hash`)
24      8      base, signed: version of the global model that the values are a change against
32      4      checksum (`hypergpu_fl.codec.format.checksum`) of the whole blob without these four bytes
36      ...    main values, then statistics, then buffers, as below; nothing may follow
======  =====  ============================================================================

The layout, known to both sides, fixes how many values there are and so almost every length; what the blob itself
announces is only ever compared with that. *Statistics* are the values of entries named ``running_mean`` or
``running_var`` (BatchNorm), *main* values are all others, both in the layout's order with nothing in between.
*Buffers* are the integer and boolean arrays.

Everything is built from three forms:

frame
    ``length: uint32`` and that many bytes: the content itself where ``length`` equals the content's size, else one
    Zstandard frame that states exactly this size. A content of no bytes has no frame at all.
bytes
    frames of 2**20 bytes each, the last one shorter.
words
    integers of 2 or 4 bytes: for every 2**18 of them one frame with their least significant bytes, one with the
    next, and so on to the most significant, which alone is compressed: others shrink little for the time they take.

=================  =========================================================================================
part               content
=================  =========================================================================================
main, fp32         words: float32
main, fp16, bf16   words: float16, or the upper half of float32
main, int8         words: bfloat16 scale of every 256 values (the last block is shorter); bytes: int8 codes
main, int4         words: bfloat16 scale of every 128 values; bytes: two codes in -7..7 a byte, the earlier one in
                   the low half, two's complement
main, top*k*       words: bfloat16 lower magnitude of every chunk of C values, then all upper magnitudes;
                   bytes, never compressed: sign bits; bytes: bits that choose the upper magnitude; ``uint32``: number
                   of gap bytes; bytes: gaps. A chunk of n values holds ``ceil(n K / C)`` of them, in ascending order.
                   A gap is the number of values skipped since the chunk's last kept one (or its start), written as
                   ``gap // 255`` bytes of 255 and one of ``gap % 255``; so an index can be neither repeated nor out
                   of order. Bits fill bytes from the least significant one on, without padding between chunks.
statistics         words: float16 (level fp32: float32)
buffers            bytes: arrays in the layout's order, C order
=================  =========================================================================================
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from hypergpu_fl.codec.errors import Corrupt, Malformed, Truncated, UnknownFormat, WrongModel
from hypergpu_fl.codec.format.checksum import Buffer, checksum
from hypergpu_fl.codec.threads import ordered_map

MAGIC = b"HGPU"
VERSION = 1
HEADER = struct.Struct("<4sBBH16sq")
CHECKSUM = struct.Struct("<I")
BODY = HEADER.size + CHECKSUM.size
LENGTH = struct.Struct("<I")
FRAME_BYTES = 1 << 20
FRAME_WORDS = 1 << 18
RESEND = "drop it; the next message brings a fresh one"

# Exponents and gaps have a skewed distribution but no repetitions: a tiny match table leaves Zstandard its Huffman
# coder, six times faster than level 1 and closer to the entropy.
_ENTROPY = zstandard.ZstdCompressionParameters(
    strategy=zstandard.STRATEGY_FAST, window_log=20, hash_log=6, chain_log=6, search_log=1, min_match=7, target_length=0
)


def _frame(content: NDArray[np.uint8], compress: bool = True) -> list[Buffer]:
    if compress:
        packed = zstandard.ZstdCompressor(compression_params=_ENTROPY).compress(content.data)
        if len(packed) < content.nbytes:
            return [LENGTH.pack(len(packed)), packed]
    return [LENGTH.pack(content.nbytes), content.data]


class Writer:
    """Collects the frames of a body in order."""

    def __init__(self) -> None:
        self._frames: list[Buffer] = []

    def frames(self, make: Callable[[int], list[Buffer]], starts: Iterable[int]) -> None:
        """Frames of ``make(start)`` for every start, made in parallel."""
        for made in ordered_map(make, starts):
            self._frames += made

    def raw_bytes(self, content: NDArray[np.uint8], *, compress: bool = True) -> None:
        """Append *bytes*; the content must stay as it is until `finish`."""
        self.frames(lambda s: _frame(content[s : s + FRAME_BYTES], compress), range(0, content.size, FRAME_BYTES))

    def words(self, size: int, width: int, get: Callable[[int, int], NDArray[Any]], *, compress: bool = True) -> None:
        """Append *words* of ``width`` bytes taken from ``get(start, stop)``."""
        from hypergpu_fl.codec.kernels import byte_kernels

        room = np.empty(size * width, dtype=np.uint8)  # one piece of memory costs fewer page faults than many

        def make(start: int) -> list[Buffer]:
            words = get(start, min(start + FRAME_WORDS, size))
            planes = room[start * width : (start + words.size) * width]
            (byte_kernels.split2 if width == 2 else byte_kernels.split4)(words, planes)
            *mantissas, exponents = planes.reshape(width, -1)
            plain = [piece for plane in mantissas for piece in _frame(plane, compress=False)]
            return plain + _frame(exponents, compress)

        self.frames(make, range(0, size, FRAME_WORDS))

    def number(self, value: int) -> None:
        """Append a ``uint32``."""
        self._frames.append(LENGTH.pack(value))

    def finish(self, level: int, model_hash: bytes, base: int) -> bytes:
        """Return the whole blob."""
        header = HEADER.pack(MAGIC, VERSION, level, 0, model_hash[:16], base)
        return b"".join([header, CHECKSUM.pack(checksum(header, *self._frames)), *self._frames])


@dataclass(frozen=True, slots=True)
class Planes:
    """``size`` words of ``width`` bytes as they arrived, a list of byte planes a frame; plain ones lie in the blob.

    Merging a few at a time is faster than all at once: they are still in the cache when they are used.
    """

    size: int
    frames: list[list[NDArray[np.uint8]]]
    width: int

    def words(self, start: int, stop: int) -> NDArray[Any]:
        """Unsigned integers ``start`` to ``stop``."""
        from hypergpu_fl.codec.kernels import byte_kernels

        words: NDArray[Any] = np.empty(stop - start, dtype=f"<u{self.width}")
        for number in range(start // FRAME_WORDS, -(-stop // FRAME_WORDS)):
            first = number * FRAME_WORDS
            low, high = max(start, first), min(stop, first + FRAME_WORDS)
            planes = [plane[low - first : high - first] for plane in self.frames[number]]
            part = words[low - start : high - start]
            if self.width == 2:
                byte_kernels.merge2(planes[0], planes[1], part)
            else:
                byte_kernels.merge4(planes[0], planes[1], planes[2], planes[3], part)
        return words


class Reader:
    """Walks a body; refuses whatever the caller does not expect.

    Raises
    ------
    Truncated, Corrupt, UnknownFormat, WrongModel, Malformed
        As soon as the blob is found to be so.
    """

    def __init__(self, blob: Buffer, model_hash: bytes) -> None:
        self._blob = memoryview(blob).cast("B")
        if len(self._blob) < BODY:
            raise Truncated(f"blob of {len(self._blob)} bytes has no room for its header of {BODY}", RESEND)
        magic, version, self.level, zero, model, self.base = HEADER.unpack_from(self._blob)
        if magic != MAGIC or version != VERSION or zero != 0:
            raise UnknownFormat(
                f"blob begins with {bytes(self._blob[:8]).hex()}, not with format version {VERSION}",
                "run the same release on server and nodes",
            )
        if model != model_hash[:16]:
            raise WrongModel(
                "blob is of a model whose arrays have other names, shapes or types: "
                f"{model.hex()}, expected {model_hash[:16].hex()}",
                "run the same model everywhere; what a node's arrays are is compared when it says hello",
            )
        (stated,) = CHECKSUM.unpack_from(self._blob, HEADER.size)
        found = checksum(self._blob[: HEADER.size], self._blob[BODY:])
        if stated != found:
            raise Corrupt(f"blob's checksum is {found:08x}, it states {stated:08x}", RESEND)
        self._at = BODY

    def number(self) -> int:
        """Take a ``uint32``."""
        return int(LENGTH.unpack(self._take(LENGTH.size))[0])

    def raw_bytes(self, size: int) -> NDArray[np.uint8]:
        """Take *bytes* of a size the caller has found acceptable."""
        content = np.empty(size, dtype=np.uint8)
        found = [(start, self._packed(min(FRAME_BYTES, size - start))) for start in range(0, size, FRAME_BYTES)]

        def fill(item: tuple[int, memoryview]) -> None:
            _unpack(item[1], content[item[0] : item[0] + FRAME_BYTES])

        for _ in ordered_map(fill, found):
            pass
        return content

    def words(self, size: int, width: int) -> NDArray[Any]:
        """Take *words* of ``width`` bytes, as unsigned integers."""
        return self.planes(size, width).words(0, size)

    def planes(self, size: int, width: int) -> Planes:
        """Take *words*, and leave them as their frames."""
        found = []
        for start in range(0, size, FRAME_WORDS):
            count = min(FRAME_WORDS, size - start)
            found += [(self._packed(count), count) for _ in range(width)]
        planes = list(ordered_map(lambda item: _plane(*item), found))
        return Planes(size, [planes[at : at + width] for at in range(0, len(planes), width)], width)

    def finish(self) -> None:
        """Refuse what is left over."""
        if self._at != len(self._blob):
            raise Malformed(f"{len(self._blob) - self._at} bytes follow the blob's content", RESEND)

    def _take(self, size: int) -> memoryview:
        if self._at + size > len(self._blob):
            raise Truncated(f"blob of {len(self._blob)} bytes ends inside a field of {size} at {self._at}", RESEND)
        part = self._blob[self._at : self._at + size]
        self._at += size
        return part

    def _packed(self, size: int) -> memoryview:
        length = self.number()
        if length > size:
            raise Malformed(f"frame of {length} bytes for a content of {size}", RESEND)
        return self._take(length)


def base_of(blob: Buffer) -> int:
    """Base that a blob states; nothing else of it is looked at."""
    if len(blob) < BODY:
        raise Truncated(f"blob of {len(blob)} bytes has no room for its header of {BODY}", RESEND)
    return int(HEADER.unpack_from(blob)[-1])


def _plane(packed: memoryview, size: int) -> NDArray[np.uint8]:
    """Content of a frame; a plain one's bytes where they lie."""
    if len(packed) == size:
        return np.frombuffer(packed, dtype=np.uint8)
    content = np.empty(size, dtype=np.uint8)
    _unpack(packed, content)
    return content


def _unpack(packed: memoryview, out: NDArray[np.uint8]) -> None:
    if len(packed) == out.size:
        out[:] = np.frombuffer(packed, dtype=np.uint8)
        return
    try:
        # what the frame states is compared before anything is decompressed; then it can write to `out` alone
        stated = zstandard.get_frame_parameters(packed)
        if stated.content_size != out.size or stated.dict_id != 0:
            raise Malformed(f"Zstandard frame states {stated.content_size} bytes, expected {out.size}", RESEND)
        source = zstandard.ZstdDecompressor(max_window_size=FRAME_BYTES).stream_reader(packed)
        if source.readinto(out.data) != out.size or source.read(1):
            raise Malformed(f"Zstandard frame does not hold {out.size} bytes", RESEND)
    except zstandard.ZstdError as error:
        raise Malformed(f"broken Zstandard frame: {error}", RESEND) from error
