"""Whatever bytes arrive, decoding ends in an update or in a typed refusal, within its memory."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest
import zstandard
from codec_models import LEVEL_NAMES, MIXED, arrays_of

from hypergpu_fl.codec import decode, encode
from hypergpu_fl.codec.errors import Corrupt, Malformed, Truncated, UnknownFormat, WrongModel
from hypergpu_fl.codec.format.blob import BODY, CHECKSUM, HEADER
from hypergpu_fl.codec.format.checksum import checksum
from hypergpu_fl.errors import CodecError
from strategies.model.layout import Layout


def sealed(blob: bytes) -> bytes:
    """The blob with a checksum that fits, as an attacker would send it."""
    body = blob[BODY:]
    return blob[: HEADER.size] + CHECKSUM.pack(checksum(blob[: HEADER.size], body)) + body


def mutate(blob: bytes, rng: np.random.Generator) -> bytes:
    """One of: cut, bits flipped, bytes overwritten, a part doubled or removed, a length field changed."""
    data, kind = bytearray(blob), rng.integers(6)
    at = int(rng.integers(len(data)))
    if kind == 0:
        return bytes(data[:at])
    if kind == 1:
        for place in rng.integers(len(data), size=rng.integers(1, 5)):
            data[place] ^= 1 << int(rng.integers(8))
    elif kind == 2:
        data[at : at + 8] = rng.bytes(8)
    elif kind == 3:
        data[at:at] = data[at : at + int(rng.integers(1, 64))]
    elif kind == 4:
        del data[at : at + int(rng.integers(1, 64))]
    else:
        data[at : at + 4] = struct.pack("<I", int(rng.choice([0, 1, 255, 2**31, 2**32 - 1, rng.integers(2**20)])))
    return bytes(data)


def fuzz(blobs: dict[str, bytes], layout: Layout, n: int, seed: int) -> int:
    """Decode n mutated blobs, most with a fitting checksum; how many were refused."""
    rng = np.random.default_rng(seed)
    names, total, refused = list(blobs), np.zeros(layout.size, dtype=np.float32), 0
    for i in range(n):
        blob = mutate(blobs[names[i % len(names)]], rng)
        if len(blob) >= BODY and rng.random() < 0.9:
            blob = sealed(blob)
        try:
            update = decode(blob, layout)
        except CodecError:
            refused += 1
            continue
        with np.errstate(all="ignore"):
            update.add_to(total, 1e-30)
            update.norm()
            update.finite()
    return refused


@pytest.mark.no_cover
def test_twenty_thousand_mutated_blobs_are_decoded_or_refused(blobs: dict[str, bytes], layout: Layout) -> None:
    assert 5_000 < fuzz(blobs, layout, 20_000, seed=0) < 20_000  # some mutations only change values, and must pass


@pytest.mark.slow
def test_two_hundred_thousand_mutated_blobs_are_decoded_or_refused(blobs: dict[str, bytes], layout: Layout) -> None:
    assert 50_000 < fuzz(blobs, layout, 200_000, seed=1) < 200_000


@pytest.mark.parametrize("name", LEVEL_NAMES)
def test_every_truncation_is_refused(blobs: dict[str, bytes], layout: Layout, name: str) -> None:
    blob = blobs[name]
    for size in [*range(0, BODY + 60), *range(BODY, len(blob), 997), len(blob) - 1]:
        with pytest.raises((Truncated, Corrupt)):
            decode(blob[:size], layout)
        if size >= BODY:
            with pytest.raises(CodecError):
                decode(sealed(blob[:size]), layout)


def test_every_flipped_bit_is_noticed(blobs: dict[str, bytes], layout: Layout) -> None:
    blob = blobs["top128"]
    for bit in range(0, 8 * len(blob), 7):
        data = bytearray(blob)
        data[bit // 8] ^= 1 << (bit % 8)
        with pytest.raises((Corrupt, UnknownFormat, WrongModel)):
            decode(bytes(data), layout)


@pytest.mark.parametrize(
    ("at", "value", "error"),
    [(0, b"X", UnknownFormat), (4, b"\2", UnknownFormat), (5, b"\xee", UnknownFormat), (8, b"\0", WrongModel)],
)
def test_blobs_of_another_kind_are_refused(
    blobs: dict[str, bytes], layout: Layout, at: int, value: bytes, error: type[CodecError]
) -> None:
    blob = blobs["int8"]
    with pytest.raises(error):
        decode(sealed(blob[:at] + value + blob[at + 1 :]), layout)


def test_bytes_after_the_content_are_refused(blobs: dict[str, bytes], layout: Layout) -> None:
    with pytest.raises(Malformed, match="follow"):
        decode(sealed(blobs["top16"] + b"\0"), layout)


PLAIN = Layout.of(arrays_of([("weight", 8192)]))


def raw(content: bytes) -> bytes:
    return struct.pack("<I", len(content)) + content if content else b""


def top128(gaps: bytes, scales: bytes = b"\x80\x3f\x80\x3f", claimed: int | None = None) -> bytes:
    """A hand-made blob of one chunk of 8192 values, 64 of them kept."""
    body = raw(scales[0::2]) + raw(scales[1::2]) + raw(bytes(8)) + raw(bytes(8))
    body += struct.pack("<I", len(gaps) if claimed is None else claimed) + raw(gaps)
    return sealed(HEADER.pack(b"HGPU", 1, 9, 0, PLAIN.hash[:16], 0) + bytes(4) + body)


def test_a_hand_made_blob_is_what_the_format_says() -> None:
    dense = decode(top128(bytes(64)), PLAIN).dense()
    np.testing.assert_array_equal(dense, np.where(np.arange(8192) < 64, 1, 0))


def test_an_index_out_of_range_is_refused() -> None:
    with pytest.raises(Malformed, match="chunk"):
        decode(top128(bytes([255] * 32 + [254] + [0] * 63)), PLAIN)
    with pytest.raises(Malformed, match="chunk"):
        decode(top128(bytes([0] * 63 + [255])), PLAIN)  # the last gap never ends
    with pytest.raises(Malformed, match="chunk"):
        decode(top128(bytes(65)), PLAIN)  # one index too many


def test_no_index_can_be_sent_twice() -> None:
    index = decode(top128(bytes(64)), PLAIN).main.index
    assert np.all(np.diff(index.astype(np.int64)) > 0)  # gaps of 0 are the smallest there is


@pytest.mark.parametrize("bits", [0x7FC0, 0x7F80, 0xFF80, 0xBF80, 0xFFFF])
def test_scales_that_are_not_finite_and_positive_are_refused(bits: int) -> None:
    with pytest.raises(Malformed, match="scale"):
        decode(top128(bytes(64), struct.pack("<HH", 0x3F80, bits)), PLAIN)


def test_nan_in_a_dense_blob_is_told_by_the_update() -> None:
    words = np.zeros(8192, dtype=np.float32)
    words[7] = np.nan
    planes = b"".join(raw(words.tobytes()[b::4]) for b in range(4))
    update = decode(sealed(HEADER.pack(b"HGPU", 1, 1, 0, PLAIN.hash[:16], 0) + bytes(4) + planes), PLAIN)
    assert not update.finite()


def test_a_boolean_buffer_holds_only_zeros_and_ones() -> None:
    layout = Layout.of({"mask": np.array([True, False])})
    blob = encode("int8", np.zeros(0, dtype="f4"), layout, {"mask": np.array([True, False])}, base=0)
    with pytest.raises(Malformed, match="boolean"):
        decode(sealed(blob[:-1] + b"\2"), layout)


def bomb(size: int) -> bytes:
    return zstandard.ZstdCompressor(level=19).compress(bytes(size))


def hidden(size: int) -> bytes:
    """A frame that does not state its size."""
    return zstandard.ZstdCompressor(level=19, write_content_size=False).compress(bytes(size))


@pytest.mark.parametrize("payload", [bomb(1 << 28), hidden(1 << 28), bomb(63), hidden(64), bomb(64)[:-3], b"\0" * 9])
def test_decompression_bombs_are_refused_unopened(payload: bytes) -> None:
    body = raw(b"\x80\x80") + raw(b"\x3f\x3f") + raw(bytes(8)) + raw(bytes(8)) + struct.pack("<I", 64)
    blob = HEADER.pack(b"HGPU", 1, 9, 0, PLAIN.hash[:16], 0) + bytes(4) + body
    tracemalloc.start()
    with pytest.raises(Malformed):
        decode(sealed(blob + struct.pack("<I", len(payload)) + payload), PLAIN)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_claimed_number_of_gaps_is_not_believed() -> None:
    with pytest.raises(Malformed, match="gap bytes"):
        decode(top128(bytes(64), claimed=2**32 - 1), PLAIN)


@pytest.mark.parametrize("name", LEVEL_NAMES)
def test_decoding_takes_the_models_size_and_some_frames(name: str) -> None:
    layout = Layout.of(arrays_of([("weight", 4 << 20)]))
    vector = np.random.default_rng(0).standard_normal(layout.size).astype(np.float32)
    blob = encode(name, vector, layout, {}, base=0)
    tracemalloc.start()
    decode(blob, layout)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < vector.nbytes + (64 << 20) / 4


def test_mixed_model_has_every_kind_of_array() -> None:
    assert {a.dtype.kind for a in MIXED.values()} == {"f", "i", "b"}
