"""The shared downlink: however nodes come, go and lose messages, each holds exactly what the server thinks."""

from __future__ import annotations

import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from codec_models import MIXED
from hypothesis import given, settings
from hypothesis import strategies as st

from hypergpu_fl.codec import LEVELS, encode
from hypergpu_fl.codec.downlink.versions import MODEL_LEVELS, ModelVersions
from hypergpu_fl.codec.downlink.views import View, ViewStore, apply, pack
from hypergpu_fl.codec.errors import Corrupt, Malformed, Truncated, UnknownFormat, ViewMissing
from hypergpu_fl.codec.format.checksum import checksum
from hypergpu_fl.errors import CodecError, UsageError
from strategies.model.layout import Layout

LAYOUT = Layout.of(MIXED)
BUFFERS = LAYOUT.buffers(MIXED)


def buffers(version: int) -> dict[str, np.ndarray]:
    return BUFFERS | {"bn.num_batches_tracked": np.array(version, dtype=np.int64)}


def walk(seed: int, steps: int) -> list[np.ndarray]:
    """Versions of a model in training."""
    rng = np.random.default_rng(seed)
    model = rng.standard_normal(LAYOUT.size).astype(np.float32)
    models = [model]
    for _ in range(steps):
        models.append((models[-1] + 0.02 * rng.standard_normal(LAYOUT.size)).astype(np.float32))
    return models


@settings(max_examples=25)
@given(
    st.integers(0, 2**31),
    st.lists(
        st.tuples(
            st.booleans(),
            st.lists(
                st.tuples(st.integers(0, 3), st.sampled_from(list(LEVELS)), st.sampled_from(["ok", "lost", "asleep"]))
            ),
        ),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from([0, 3_000, 1 << 20]),
)
def test_every_node_holds_what_the_server_thinks(seed: int, rounds: list, max_bytes: int) -> None:
    versions = ModelVersions(LAYOUT, max_bytes=max_bytes)
    acknowledged: dict[int, int] = {}
    holding: dict[int, View | None] = {}
    history: dict[int, np.ndarray] = {}
    for version, (model, (extend, messages)) in enumerate(zip(walk(seed, len(rounds)), rounds, strict=False)):
        versions.publish(version, model, buffers(version), extend=extend)
        history[versions.view_version] = versions.view_P.copy()
        for node, level, fate in messages:
            download = versions.download(level, acknowledged.get(node, -1))
            if fate == "asleep":  # the message never arrives
                continue
            received = apply(download.blob, LAYOUT, holding.get(node))
            assert received.version == version
            assert received.buffers["bn.num_batches_tracked"] == version
            holding[node] = received.view or holding.get(node)
            if fate == "ok":  # else the reply is lost and the server knows nothing of the move
                acknowledged[node] = download.holds
        for node, held in acknowledged.items():
            view = holding[node]
            if held >= 0:
                assert view is not None and view.version >= held
                np.testing.assert_array_equal(view.vector_P, history[view.version])


def test_the_chain_feeds_its_own_error_back() -> None:
    versions = ModelVersions(LAYOUT, chain="top32")
    models = walk(1, 30)
    for version, model in enumerate(models):
        versions.publish(version, model, BUFFERS)
    for version in range(31, 90):  # the model rests, the view catches up
        versions.publish(version, models[-1], BUFFERS)
    assert np.linalg.norm(versions.view_P - models[-1]) < 1e-2 * np.linalg.norm(models[-1] - models[0])


def test_what_the_chain_passed_over_comes_as_an_extra() -> None:
    models = walk(8, 12)
    every, third = ModelVersions(LAYOUT, chain="top64"), ModelVersions(LAYOUT, chain="top64")
    views: dict[int, View | None] = {-1: None}
    for version, model in enumerate(models):
        every.publish(version, model, BUFFERS)
        third.publish(version, model, BUFFERS, extend=version % 3 == 0)
        views[version] = apply(third.download("top64", -1).blob, LAYOUT, None).view
    third.publish(13, models[-1], BUFFERS, extend=False)
    assert (third.version, third.view_version) == (13, 12)
    for level in ("int8", "top64", "top128"):
        for held in (-1, 9, 12):
            received = apply(third.download(level, held).blob, LAYOUT, views[held])
            assert received.version == 13
            assert received.view is not None and received.view.version == 12
            np.testing.assert_array_equal(received.view.vector_P, third.view_P)
            assert np.linalg.norm(received.model_P - models[-1]) < np.linalg.norm(third.view_P - models[-1])
    assert len(third.download("top64", 0).blob) < len(every.download("top64", 0).blob)


def test_a_node_that_stays_gets_small_steps_and_a_new_one_a_whole_view() -> None:
    versions = ModelVersions(LAYOUT)
    for version, model in enumerate(walk(2, 3)):
        versions.publish(version, model, {**BUFFERS})
    whole, step = versions.download("top32", -1), versions.download("top32", 2)
    assert (whole.view, step.view) == (-1, 2)
    assert len(step.blob) < LAYOUT.size * 4 / 40
    assert LAYOUT.size * 4 / 5 < len(whole.blob) < LAYOUT.size * 4 / 2


def test_finer_levels_start_closer_to_the_model_and_stay_on_the_chain() -> None:
    versions = ModelVersions(LAYOUT)
    models = walk(3, 5)
    versions.publish(0, models[0], BUFFERS)
    held = apply(versions.download("top32", -1).blob, LAYOUT, None).view
    for version, model in enumerate(models[1:], start=1):
        versions.publish(version, model, BUFFERS)
    errors = {}
    for level in LEVELS:
        received = apply(versions.download(level, 0).blob, LAYOUT, held)
        errors[level] = np.linalg.norm(received.model_P - models[-1])
        if level not in MODEL_LEVELS:
            np.testing.assert_array_equal(received.view.vector_P, versions.view_P)
    assert errors["fp32"] == 0
    assert errors["int8"] < errors["int4"] < errors["top16"] < errors["top32"] == errors["top128"]


def test_memory_does_not_grow_with_nodes_or_versions() -> None:
    bound = 4_000
    versions = ModelVersions(LAYOUT, max_bytes=bound)
    sizes = []
    for version, model in enumerate(walk(4, 40)):
        versions.publish(version, model, BUFFERS)
        for held in range(-1, version + 1):
            versions.download("top32", held)
        sizes.append(len(pickle.dumps(versions)))
    model_bytes = LAYOUT.size * 4
    assert max(sizes) <= 3 * model_bytes + bound
    assert max(sizes[20:]) <= 1.05 * max(sizes[:20])


def test_a_long_absent_node_gets_a_whole_view() -> None:
    versions = ModelVersions(LAYOUT, max_bytes=4_000)
    models = walk(5, 40)
    versions.publish(0, models[0], BUFFERS)
    held = apply(versions.download("top32", -1).blob, LAYOUT, None).view
    for version, model in enumerate(models[1:], start=1):
        versions.publish(version, model, BUFFERS)
    download = versions.download("top32", 0)
    assert download.view == -1
    np.testing.assert_array_equal(apply(download.blob, LAYOUT, held).view.vector_P, versions.view_P)


def test_a_view_of_another_chain_or_version_is_missing() -> None:
    one, other = ModelVersions(LAYOUT), ModelVersions(LAYOUT)
    for version, (a, b) in enumerate(zip(walk(6, 3), walk(7, 3), strict=True)):
        one.publish(version, a, BUFFERS)
        other.publish(version, b, BUFFERS)
    blob = one.download("top32", 2).blob
    stranger = apply(other.download("top32", -1).blob, LAYOUT, None).view
    assert stranger is not None
    view = View(stranger.chain, 2, stranger.vector_P)
    with pytest.raises(ViewMissing, match="not held"):
        apply(blob, LAYOUT, None)
    with pytest.raises(ViewMissing, match="not held"):
        apply(blob, LAYOUT, view)
    right = apply(one.download("top32", -1).blob, LAYOUT, None).view
    assert right is not None
    with pytest.raises(ViewMissing, match="start at version 2"):
        apply(blob, LAYOUT, View(right.chain, 1, right.vector_P))
    with pytest.raises(ViewMissing, match="does not lead"):
        apply(blob, LAYOUT, View(right.chain, 2, right.vector_P + 1))
    with pytest.raises(ViewMissing, match="does not lead"):
        apply(blob, LAYOUT, View(right.chain, 7, right.vector_P))


def test_a_damaged_message_is_refused() -> None:
    versions = ModelVersions(LAYOUT)
    for version, model in enumerate(walk(8, 3)):
        versions.publish(version, model, BUFFERS)
    held = apply(versions.download("top32", -1).blob, LAYOUT, None).view
    blobs = [versions.download(*a).blob for a in (("top32", 1), ("int8", 1), ("fp16", 1), ("top32", -1))]
    rng = np.random.default_rng(0)
    for blob in blobs:
        for _ in range(300):
            data = bytearray(blob)
            for place in rng.integers(len(data), size=3):
                data[place] ^= 1 << int(rng.integers(8))
            with pytest.raises(CodecError):
                apply(bytes(data), LAYOUT, held)
        for size in [0, 10, 31, 33, len(blob) - 1]:
            with pytest.raises((Truncated, Corrupt)):
                apply(blob[:size], LAYOUT, held)
        with pytest.raises(Malformed):
            apply(blob + b"\0", LAYOUT, held)
    with pytest.raises(UnknownFormat):
        apply(b"HGPX" + blobs[0][4:], LAYOUT, held)


def test_a_message_of_many_steps_is_held_one_step_at_a_time() -> None:
    layout = Layout.of({"weight": np.empty(1 << 20, dtype=np.float32)})
    nothing_P = np.zeros(layout.size, dtype=np.float32)
    held = View(bytes(8), 0, nothing_P)
    steps = [encode("int8", nothing_P, layout, {}, base=version) for version in range(64)]  # 64 MiB once decoded
    message = pack(steps, 0, held.chain, 64, checksum(nothing_P.data))
    assert len(message) < nothing_P.nbytes
    tracemalloc.start()
    assert apply(message, layout, held).version == 64
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * nothing_P.nbytes + (16 << 20)


def test_a_model_that_is_not_finite_is_not_published() -> None:
    versions = ModelVersions(LAYOUT)
    models = walk(9, 2)
    versions.publish(0, models[0], BUFFERS)
    before = versions.view_P.copy()
    with pytest.raises(CodecError):
        versions.publish(1, models[1] * np.float32(np.nan), BUFFERS)
    np.testing.assert_array_equal(versions.view_P, before)
    versions.publish(1, models[1], BUFFERS)


def test_wrong_use_is_refused() -> None:
    versions = ModelVersions(LAYOUT)
    with pytest.raises(UsageError, match="no model"):
        versions.download("top32", -1)
    versions.publish(3, walk(0, 0)[0], BUFFERS)
    with pytest.raises(UsageError, match="follows"):
        versions.publish(3, walk(0, 0)[0], BUFFERS)
    with pytest.raises(UsageError, match="chain"):
        ModelVersions(LAYOUT, chain="fp16")


def test_views_survive_on_disk_and_damage_is_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def store() -> ViewStore:
        return ViewStore(tmp_path, "r", "n", LAYOUT.hash, LAYOUT.size, 1 << 20)

    assert store().load() is None
    view = View(b"chain id", 4, walk(1, 0)[0])
    store().save(view)
    found = store().load()
    assert found is not None and (found.chain, found.version) == (b"chain id", 4)
    np.testing.assert_array_equal(found.vector_P, view.vector_P)
    (path,) = tmp_path.glob("*/view")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert store().load() is None and "wrong checksum" in caplog.text
