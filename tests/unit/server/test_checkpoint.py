from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hypergpu_fl.errors import CheckpointError
from hypergpu_fl.server import checkpoint as module
from hypergpu_fl.server.checkpoint import Checkpoint, load, save, versions
from strategies.layout import Layout

NAMES = st.text("abcdefgh._0123456789", min_size=1, max_size=12)
ARRAYS = hnp.arrays(
    dtype=st.sampled_from([np.float32, np.float64, np.float16, np.int64, np.uint8, np.bool_]),
    shape=hnp.array_shapes(min_dims=0, max_dims=3, max_side=4),
)


def example(version: int = 7) -> Checkpoint:
    rng = np.random.default_rng(version)
    return Checkpoint(
        version,
        {"z.weight": rng.normal(size=(4, 3)).astype(np.float32), "a.count": np.array(5)},
        {"momentum": rng.normal(size=12).astype(np.float32)},
        {"round": version, "history": [{"loss": 0.5}], "name": "sé"},
    )


def same(first: Checkpoint, second: Checkpoint) -> bool:
    return (
        (first.version, first.state) == (second.version, second.state)
        and list(first.arrays) == list(second.arrays)
        and list(first.vectors) == list(second.vectors)
        and all(
            a[name].dtype == b[name].dtype and a[name].shape == b[name].shape and a[name].tobytes() == b[name].tobytes()
            for a, b in ((first.arrays, second.arrays), (first.vectors, second.vectors))
            for name in a
        )
    )


@settings(max_examples=50)
@given(
    arrays=st.dictionaries(NAMES, ARRAYS, max_size=4),
    vectors=st.dictionaries(NAMES, ARRAYS, max_size=2),
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
    saved = Checkpoint(version, arrays, vectors, state)
    save(folder, saved)
    assert same(load(folder, layout=Layout.of(arrays)), saved)


def test_a_transposed_array_keeps_its_values(tmp_path: Path) -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4).T
    save(tmp_path, Checkpoint(0, {"w": array}))
    assert np.array_equal(load(tmp_path).arrays["w"], array)


def test_numbered_keys_of_the_state_become_text(tmp_path: Path) -> None:
    save(tmp_path, Checkpoint(0, {}, state={"nodes": {9: 1, 10: 2}}))
    assert load(tmp_path).state == {"nodes": {"9": 1, "10": 2}}


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for version in range(6):
        save(tmp_path, example(version), keep=2)
    assert versions(tmp_path) == [4, 5]
    assert len(list(tmp_path.iterdir())) == 4
    assert load(tmp_path).version == 5 and load(tmp_path, 4).version == 4


def test_saving_an_older_version_again_does_not_remove_it(tmp_path: Path) -> None:
    for version in (5, 6, 1):
        save(tmp_path, example(version), keep=1)
    assert load(tmp_path, 1).version == 1


def test_a_version_saved_twice_is_the_second(tmp_path: Path) -> None:
    save(tmp_path, example(3))
    changed = Checkpoint(3, {"z.weight": np.ones(2, np.float32)})
    save(tmp_path, changed)
    assert same(load(tmp_path), changed)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1


@settings(max_examples=150)
@given(which=st.booleans(), position=st.integers(0, 10_000), flip=st.integers(1, 255), cut=st.booleans())
def test_no_damaged_byte_goes_unnoticed(
    tmp_path_factory: pytest.TempPathFactory, which: bool, position: int, flip: int, cut: bool
) -> None:
    folder = tmp_path_factory.mktemp("run")
    saved = example()
    manifest = save(folder, saved)
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


def test_a_torn_newest_checkpoint_is_refused_unless_an_older_one_is_asked_for(tmp_path: Path) -> None:
    save(tmp_path, example(1))
    save(tmp_path, example(2))
    newest = next(tmp_path.glob("00000002-*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=newest.name):
        load(tmp_path)
    logged: list[str] = []
    sink = module.logger.add(logged.append, format="{message}")
    try:
        assert load(tmp_path, newest_valid=True).version == 1
    finally:
        module.logger.remove(sink)
    assert "skipping checkpoint 2" in logged[0] and newest.name in logged[0]
    next(tmp_path.glob("00000001-*.safetensors")).unlink()
    with pytest.raises(CheckpointError, match="none of the checkpoints"):
        load(tmp_path, newest_valid=True)


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
    with pytest.raises(CheckpointError, match="is no hypergpu-checkpoint-2 manifest"):
        load(tmp_path)


@pytest.mark.parametrize("renames_before_the_crash", [0, 1])
def test_a_crash_while_saving_leaves_the_previous_checkpoint_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames_before_the_crash: int
) -> None:
    saved = example(1)
    save(tmp_path, saved)
    real, done = module.os.replace, []

    def failing(source: Path, target: Path) -> None:
        if len(done) == renames_before_the_crash:
            raise OSError("no space left on device")
        done.append(real(source, target))

    monkeypatch.setattr(module.os, "replace", failing)
    for version in (1, 2):
        done.clear()
        with pytest.raises(CheckpointError, match="no space left"):
            save(tmp_path, Checkpoint(version, {"w": np.ones(3, np.float32)}))
        assert same(load(tmp_path), saved)
    monkeypatch.undo()
    save(tmp_path, example(2), keep=1)
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".json", ".safetensors"]


def test_checkpoints_need_no_torch() -> None:
    code = "import sys, hypergpu_fl.server.checkpoint; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
