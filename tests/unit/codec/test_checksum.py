"""The checksum made on several threads is zlib's."""

from __future__ import annotations

import zlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hypergpu_fl.codec.checksum import PIECE_BYTES, crc32


@given(st.lists(st.binary(max_size=40), max_size=6))
def test_parts_are_summed_one_after_the_other(parts: list[bytes]) -> None:
    assert crc32(*parts) == zlib.crc32(b"".join(parts))


def test_long_parts_are_cut_and_put_together_again() -> None:
    content = np.random.default_rng(0).bytes(21 * PIECE_BYTES + 12_345)
    for cuts in ([], [0, 7], [5 * PIECE_BYTES, 5 * PIECE_BYTES + 1, 18 * PIECE_BYTES - 3]):
        parts = [content[a:b] for a, b in zip([0, *cuts], [*cuts, len(content)], strict=True)]
        assert crc32(*parts) == zlib.crc32(content)


def test_leading_zeros_count() -> None:
    assert crc32(bytes(12 * PIECE_BYTES), b"x") == zlib.crc32(bytes(12 * PIECE_BYTES) + b"x")


def test_an_array_of_no_values_has_the_checksum_of_nothing() -> None:
    assert crc32(np.empty(0, dtype=np.float32).data) == zlib.crc32(b"")
