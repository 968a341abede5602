"""What the codec promises of every level."""

from __future__ import annotations

from collections.abc import Callable

import codec_reference as reference
import numpy as np
import pytest
from codec_models import LEVEL_NAMES, MIXED, MODELS, PLAIN, arrays_of, statistics, vectors
from hypothesis import given, settings
from hypothesis import strategies as st

from hypergpu_fl.codec import LEVELS, decode, encode, encode_with_feedback, level
from hypergpu_fl.codec.errors import Malformed, NotFinite
from hypergpu_fl.codec.format.runs import runs_of
from hypergpu_fl.errors import UsageError
from strategies.errors import LayoutError
from strategies.model.layout import Layout, take

models = st.sampled_from(sorted(MODELS))
names = st.sampled_from(LEVEL_NAMES)


@settings(max_examples=60, deadline=None)
@given(names, models, st.data())
def test_what_is_sent_and_what_is_kept_make_up_the_input(name: str, model: str, data: st.DataObject) -> None:
    layout = Layout.of(MODELS[model])
    delta, old = data.draw(vectors(layout.size)), data.draw(vectors(layout.size))
    blob, residual = encode_with_feedback(name, delta, old, layout, layout.buffers(MODELS[model]), base=4)
    p = (delta + old).astype(np.float64)
    error = np.abs(decode(blob, layout).dense().astype(np.float64) + residual - p)
    assert error.max(initial=0) <= 1e-8 * np.abs(p).max(initial=0)


@settings(max_examples=60, deadline=None)
@given(names, models, st.data())
def test_bytes_and_values_are_those_of_the_plain_numpy_reference(name: str, model: str, data: st.DataObject) -> None:
    arrays = MODELS[model]
    layout = Layout.of(arrays)
    p = data.draw(vectors(layout.size))
    buffers = b"".join(a.tobytes() for a in arrays.values() if a.dtype.kind in "ib")
    expected, q = reference.encode(name, p, statistics(layout), buffers, layout.hash, -7)
    blob = encode(name, p, layout, layout.buffers(arrays), base=-7)
    assert blob == expected
    np.testing.assert_array_equal(decode(blob, layout).dense(), q)


@settings(max_examples=60, deadline=None)
@given(names, st.data())
def test_encoding_what_was_decoded_changes_nothing(name: str, data: st.DataObject) -> None:
    layout = Layout.of(PLAIN)
    blob = encode(name, data.draw(vectors(layout.size)), layout, {}, base=0)
    dense = decode(blob, layout).dense()
    again = encode(name, dense, layout, {}, base=0)
    np.testing.assert_array_equal(decode(again, layout).dense(), dense)
    assert encode(name, dense, layout, {}, base=0) == again


@pytest.mark.parametrize("name", LEVEL_NAMES)
@pytest.mark.parametrize("model", ["mixed", "plain"])
def test_a_decoded_update_behaves_as_its_dense_vector(name: str, model: str) -> None:
    rng = np.random.default_rng(1)
    layout = Layout.of(MODELS[model])
    decoded = decode(
        encode(name, rng.standard_normal(layout.size).astype("f4"), layout, layout.buffers(MODELS[model]), base=9),
        layout,
    )
    dense = decoded.dense()
    total = rng.standard_normal(layout.size).astype(np.float32)
    expected = total + np.float32(0.3) * dense
    decoded.add_to(total, 0.3)
    np.testing.assert_allclose(total, expected, rtol=1e-6, atol=1e-6)
    runs = runs_of(layout)
    learned = take(dense, runs.main).astype(np.float64)  # statistics do not count
    assert decoded.norm() == pytest.approx(np.linalg.norm(learned), rel=1e-12)
    np.testing.assert_array_equal(decoded.at(runs.statistics), take(dense, runs.statistics))
    np.testing.assert_array_equal(decoded.at(((1, 5),)), dense[1:5])
    assert decoded.finite() and (decoded.size, decoded.base, decoded.level) == (layout.size, 9, name)


def test_buffers_arrive_as_they_were() -> None:
    layout = Layout.of(MIXED)
    buffers = layout.buffers(MIXED)
    got = decode(encode("top64", np.zeros(layout.size, dtype="f4"), layout, buffers, base=0), layout).buffers
    assert list(got) == list(buffers)
    for name, array in buffers.items():
        assert got[name].dtype == array.dtype and got[name].shape == array.shape
        np.testing.assert_array_equal(got[name], array)


def test_batch_norm_statistics_are_never_dropped() -> None:
    layout = Layout.of(MIXED)
    vector = np.random.default_rng(0).standard_normal(layout.size).astype(np.float32)
    mask = statistics(layout)
    vector[mask] *= 1e-3  # far too small for top-k beside the others
    dense = decode(encode("top128", vector, layout, layout.buffers(MIXED), base=0), layout).dense()
    np.testing.assert_array_equal(dense[mask], vector[mask].astype(np.float16))
    assert np.count_nonzero(dense[~mask]) < 0.01 * mask.size


def test_lossless_keeps_every_bit() -> None:
    layout = Layout.of(PLAIN)
    vector = np.random.default_rng(0).standard_normal(layout.size).astype(np.float32)
    vector[:3] = [-0.0, 1e-45, -1e36]
    dense = decode(encode("fp32", vector, layout, {}, base=0), layout).dense()
    assert dense.tobytes() == vector.tobytes()


@pytest.mark.parametrize("name", LEVEL_NAMES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 2.0**120])
def test_values_that_cannot_be_encoded_are_refused(name: str, bad: float) -> None:
    layout = Layout.of(PLAIN)
    vector = np.zeros(layout.size, dtype=np.float32)
    vector[12_345] = bad
    with pytest.raises(NotFinite):
        encode(name, vector, layout, {}, base=0)


def test_the_residual_may_be_updated_in_place() -> None:
    layout = Layout.of(MIXED)
    rng = np.random.default_rng(3)
    delta, old = (rng.standard_normal(layout.size).astype(np.float32) for _ in range(2))
    args = (layout, layout.buffers(MIXED))
    blob, residual = encode_with_feedback("top16", delta, old, *args, base=0)
    again, same = encode_with_feedback("top16", delta, old, *args, base=0, out=old)
    assert same is old and again == blob
    np.testing.assert_array_equal(old, residual)


def test_bytes_do_not_depend_on_how_the_work_is_cut(to_one_core: Callable[[], None]) -> None:
    arrays = arrays_of([("weight", 8192 * 150 + 77)])
    layout = Layout.of(arrays)
    vector = np.random.default_rng(5).standard_normal(layout.size).astype(np.float32)
    parallel = [encode(name, vector, layout, {}, base=0) for name in LEVEL_NAMES]
    to_one_core()
    assert [encode(name, vector, layout, {}, base=0) for name in LEVEL_NAMES] == parallel


@pytest.mark.parametrize(
    ("name", "low", "high"), [("int8", 4.2, 4.5), ("top32", 117, 130), ("top64", 200, 230), ("fp16", 2.2, 2.5)]
)
def test_levels_keep_their_promise_on_noise(name: str, low: float, high: float) -> None:
    layout = Layout.of(arrays_of([("weight", 1 << 20)]))
    vector = np.random.default_rng(6).standard_normal(layout.size).astype(np.float32)
    assert low < vector.nbytes / len(encode(name, vector, layout, {}, base=0)) < high


def test_levels_are_ordered_from_fattest_to_thinnest() -> None:
    ratios = [entry.expected_ratio for entry in LEVELS.values()]
    assert ratios == sorted(ratios)
    assert len({entry.code for entry in LEVELS.values()}) == len(LEVELS)


def test_an_unknown_level_is_refused_with_the_closest_one() -> None:
    with pytest.raises(UsageError, match="did you mean 'top32'"):
        level("topk32")


def test_what_does_not_fit_the_layout_is_refused() -> None:
    layout = Layout.of(MIXED)
    buffers = layout.buffers(MIXED)
    with pytest.raises(LayoutError):
        encode("int8", np.zeros(3, dtype="f4"), layout, buffers, base=0)
    with pytest.raises(LayoutError):
        encode("int8", np.zeros(layout.size, dtype="f4"), layout, buffers | {"drop.mask": np.zeros(2, bool)}, base=0)
    strange = Layout.of({"names": np.array(["a"])})
    with pytest.raises(Malformed):
        encode("int8", np.zeros(0, dtype="f4"), strange, {"names": np.array(["a"])}, base=0)


@pytest.mark.parametrize("scale", [1e-9, 1e-6, 1.0, 1e4, 1e6])
def test_half_precision_is_numpys_but_for_saturation(scale: float) -> None:
    layout = Layout.of(PLAIN)
    vector = (np.random.default_rng(8).standard_normal(layout.size) * scale).astype(np.float32)
    expected = np.clip(vector, -65504, 65504).astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(decode(encode("fp16", vector, layout, {}, base=0), layout).dense(), expected)
