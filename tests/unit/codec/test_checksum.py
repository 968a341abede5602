"""The checksum is that of xxHash's specification, whatever pieces the bytes come in."""

from __future__ import annotations

import numpy as np
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from hypergpu_fl.codec.format.checksum import checksum

NOTHING = 0x2D06800538D394C2  # XXH3-64 of no bytes, from the specification's test vectors


@given(st.lists(st.binary(max_size=400), max_size=6))
def test_parts_are_summed_one_after_the_other(parts: list[bytes]) -> None:
    assert checksum(*parts) == xxhash.xxh3_64_intdigest(b"".join(parts)) % 2**32


def test_nothing_has_the_checksum_of_nothing() -> None:
    assert checksum() == checksum(np.empty(0, dtype=np.float32).data) == NOTHING % 2**32


def test_an_array_has_the_checksum_of_its_bytes() -> None:
    values = np.arange(1000, dtype=np.float32)
    assert checksum(values.data) == checksum(values.tobytes())
