"""The flat vector and the arrays it stands for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.errors import LayoutError
from strategies.model.layout import Layout

shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
dtypes = st.sampled_from(["float32", "float64", "float16", "int64", "bool"])


@given(st.lists(st.tuples(shapes, dtypes), max_size=6), st.integers(0, 2**32 - 1))
def test_flattening_and_restoring_gives_the_arrays_back(entries: list[tuple[tuple[int, ...], str]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    arrays = {
        f"a{i}": np.asarray(rng.integers(0, 100, shape)).astype(dtype) for i, (shape, dtype) in enumerate(entries)
    }
    layout = Layout.of(arrays)
    vector_P = layout.flatten(arrays)
    assert vector_P.shape == (layout.size,) and vector_P.dtype == np.float32
    restored = layout.restore(vector_P, layout.buffers(arrays))
    assert list(restored) == list(arrays)
    for name, array in arrays.items():
        assert restored[name].dtype == array.dtype and restored[name].shape == array.shape
        np.testing.assert_array_equal(restored[name], array)


def test_the_hash_names_order_shapes_and_dtypes() -> None:
    a, b = np.zeros(3, np.float32), np.zeros((1, 3), np.float32)
    hashes = {
        Layout.of(x).hash for x in ({"a": a, "b": b}, {"b": b, "a": a}, {"a": b, "b": a}, {"a": a.astype("f2"), "b": b})
    }
    assert len(hashes) == 4 and Layout.of({"a": a + 1, "b": b}).hash in hashes


def test_other_names_shapes_and_lengths_are_refused() -> None:
    layout = Layout.of({"a": np.zeros(3, np.float32)})
    for wrong in ({"b": np.zeros(3)}, {"a": np.zeros(4)}, {}):
        with pytest.raises(LayoutError):
            layout.flatten(wrong)
    with pytest.raises(LayoutError, match="expected \\(3,\\)"):
        layout.restore(np.zeros(4, np.float32), {})
