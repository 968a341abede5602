from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hypergpu_fl.errors import CheckpointError
from hypergpu_fl.server import checkpoint as module
from hypergpu_fl.server.checkpoint import Checkpoint, load, load_model, save, versions
from strategies.model.layout import Layout

NAMES = st.text("abcdefgh._0123456789", min_size=1, max_size=12)
ARRAYS = hnp.arrays(
    dtype=st.sampled_from([np.float32, np.float64, np.float16, np.int64, np.uint8, np.bool_]),
    shape=hnp.array_shapes(min_dims=0, max_dims=3, max_side=4),
)


LAYOUT = Layout.of({"z.weight": np.zeros((4, 3), np.float32), "a.count": np.array(5)})


def example(version: int = 7) -> Checkpoint:
    rng = np.random.default_rng(version)
    return Checkpoint(
        version,
        LAYOUT,
        {
            "average": rng.normal(size=12).astype(np.float32),
            "buffer/a.count": np.array(version),
            "momentum": rng.normal(size=12).astype(np.float32),
        },
        {"round": version, "history": [{"loss": 0.5}], "name": "sé"},
    )


def file_of(folder: Path, version: int) -> str:
    return str(json.loads((folder / f"{version:08d}.json").read_text())["files"]["momentum"])


def same(first: Checkpoint, second: Checkpoint) -> bool:
    a, b = first.vectors, second.vectors
    return (
        (first.version, first.state, first.layout) == (second.version, second.state, second.layout)
        and list(a) == list(b)
        and all(
            a[name].dtype == b[name].dtype and a[name].shape == b[name].shape and a[name].tobytes() == b[name].tobytes()
            for name in a
        )
    )


@settings(max_examples=50)
@given(
    arrays=st.dictionaries(NAMES, ARRAYS, max_size=4),
    vectors=st.dictionaries(NAMES | st.builds("{}/{}".format, NAMES, NAMES), ARRAYS, max_size=4),
    state=st.dictionaries(st.text(), st.none() | st.integers() | st.floats(allow_nan=False) | st.text(), max_size=3),
    version=st.integers(0, 10**9),
)
def test_what_is_saved_is_loaded(
    tmp_path_factory: pytest.TempPathFactory,
    arrays: dict[str, np.ndarray],
    vectors: dict[str, np.ndarray],
    state: dict[str, object],
    version: int,
) -> None:
    folder = tmp_path_factory.mktemp("run")
    saved = Checkpoint(version, Layout.of(arrays), vectors, state)
    save(folder, saved)
    assert same(load(folder, layout=Layout.of(arrays)), saved)


def test_a_transposed_array_keeps_its_values(tmp_path: Path) -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4).T
    save(tmp_path, Checkpoint(0, LAYOUT, {"w": array}))
    assert np.array_equal(load(tmp_path).vectors["w"], array)


def test_numbered_keys_of_the_state_become_text(tmp_path: Path) -> None:
    save(tmp_path, Checkpoint(0, LAYOUT, state={"nodes": {9: 1, 10: 2}}))
    assert load(tmp_path).state == {"nodes": {"9": 1, "10": 2}}


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for version in range(6):
        save(tmp_path, example(version), keep=2)
    assert versions(tmp_path) == [4, 5]
    assert len(list(tmp_path.glob("*.safetensors"))) == 6
    assert load(tmp_path).version == 5 and load(tmp_path, 4).version == 4


def test_saving_an_older_version_again_does_not_remove_it(tmp_path: Path) -> None:
    for version in (5, 6, 1):
        save(tmp_path, example(version), keep=1)
    assert load(tmp_path, 1).version == 1


def test_a_version_saved_twice_is_the_second(tmp_path: Path) -> None:
    save(tmp_path, example(3))
    changed = Checkpoint(3, LAYOUT, {"momentum": np.ones(2, np.float32)})
    save(tmp_path, changed)
    assert same(load(tmp_path), changed)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1


def test_vectors_that_versions_share_lie_on_disk_once_and_the_best_average_stays(tmp_path: Path) -> None:
    """As a run saves: the model and its average move, and those before the last step are kept for a roll-back."""
    rng = np.random.default_rng(0)
    models = [rng.normal(size=50_000).astype(np.float32) for _ in range(14)]
    best = None
    for n in range(1, 7):
        vectors = {"model": models[2 * n], "average": models[2 * n + 1]}
        vectors |= {"good": models[2 * n - 2], "good_average": models[2 * n - 1]} if n > 1 else {}
        best = save(tmp_path, Checkpoint(n, LAYOUT, vectors, best=None if n == 2 else best))
    assert best is not None and best.version == 2
    assert np.array_equal(load_model(tmp_path, best=True).vectors["average"], models[5])
    assert np.array_equal(load_model(tmp_path).vectors["average"], models[13])
    # three versions' models and averages, of which two can be gone on from, and the best average
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 7.1 * models[0].nbytes


def test_a_damaged_best_model_is_refused_by_name(tmp_path: Path) -> None:
    best = save(tmp_path, example(1))
    for version in (2, 3, 4):
        save(tmp_path, Checkpoint(version, LAYOUT, {"average": np.full(12, version, np.float32)}, best=best))
    file = tmp_path / f"{best.files['average']}.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=file.name):
        load_model(tmp_path, best=True)
    assert load_model(tmp_path).version == 4


@settings(max_examples=150)
@given(which=st.booleans(), position=st.integers(0, 10_000), flip=st.integers(1, 255), cut=st.booleans())
def test_no_damaged_byte_goes_unnoticed(
    tmp_path_factory: pytest.TempPathFactory, which: bool, position: int, flip: int, cut: bool
) -> None:
    folder = tmp_path_factory.mktemp("run")
    saved = example()
    save(folder, saved)
    manifest = folder / "00000007.json"
    file = manifest if which else next(folder.glob("*.safetensors"))
    content = bytearray(file.read_bytes())
    position %= len(content)
    content[position] ^= flip
    file.write_bytes(content[:position] if cut else content)
    try:
        found = load(folder)
    except CheckpointError as error:
        assert file.name in error.cause or manifest.name in error.cause or ".safetensors" in error.cause
        assert error.remedy
    else:
        assert same(found, saved)  # a change of white space in the manifest is none


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("spoil", [cut, flip, Path.unlink, lambda file: file.write_bytes(b"")])
@pytest.mark.parametrize("part", ["vector", "manifest"])
def test_of_a_torn_newest_checkpoint_the_one_before_is_exported_and_said_so(
    tmp_path: Path, spoil: Callable[[Path], None], part: str
) -> None:
    for version in (1, 2):
        save(tmp_path, example(version))
    whole = json.loads((tmp_path / "00000002.json").read_text())["files"]["average"]
    newest = tmp_path / ("00000002.json" if part == "manifest" else f"{whole}.safetensors")
    spoil(newest)
    if newest.exists() or part == "vector":
        with pytest.raises(CheckpointError, match=newest.name):
            load(tmp_path)
    logged: list[str] = []
    sink = module.logger.add(logged.append, format="{message}")
    try:
        assert load_model(tmp_path).version == 1
    finally:
        module.logger.remove(sink)
    if newest.exists() or part == "vector":
        assert newest.name in logged[0] and logged[0].endswith("version 1 is taken in its place\n")
    for file in tmp_path.glob("*.safetensors"):
        file.unlink()
    with pytest.raises(CheckpointError, match=newest.name if newest.exists() or part == "vector" else "safetensors"):
        load_model(tmp_path)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    save(tmp_path, example())
    with pytest.raises(CheckpointError, match="another model"):
        load(tmp_path, layout=Layout.of({"z.weight": np.ones((4, 4), np.float32)}))


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        load(tmp_path / "nowhere")
    save(tmp_path, example(1))
    with pytest.raises(CheckpointError, match="00000009.json"):
        load(tmp_path, 9)


def test_a_foreign_manifest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "00000001.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(CheckpointError, match="is no hypergpu-checkpoint-4 manifest"):
        load(tmp_path)


@pytest.mark.parametrize("renames_before_the_crash", [0, 1])
def test_a_crash_while_saving_leaves_the_previous_checkpoint_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames_before_the_crash: int
) -> None:
    saved = example(1)
    save(tmp_path, saved)
    real, done = os.replace, []

    def failing(source: Path, target: Path) -> None:
        if len(done) == renames_before_the_crash:
            raise OSError("no space left on device")
        done.append(real(source, target))

    # a disk that fills up between two renames cannot be had at will
    monkeypatch.setattr(os, "replace", failing)
    for version in (1, 2):
        done.clear()
        with pytest.raises(CheckpointError, match="no space left"):
            save(tmp_path, Checkpoint(version, LAYOUT, {"w": np.full(3, version, np.float32)}))
        assert same(load(tmp_path), saved)
    monkeypatch.undo()
    save(tmp_path, example(2), keep=1)
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".json"] + [".safetensors"] * 3


def test_checkpoints_need_no_torch() -> None:
    code = "import sys, hypergpu_fl.server.checkpoint; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
