"""A residual is spent exactly when the server used the update it belongs to."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from full_disk import full_disk
from hypothesis import given, settings
from hypothesis import strategies as st

from hypergpu_fl.codec import decode, encode_with_feedback
from hypergpu_fl.codec.errors import ResidualRefused
from hypergpu_fl.codec.feedback.residuals import ResidualStore
from strategies.model.layout import Layout

LAYOUT = Layout.of({"weight": np.zeros(9000, dtype=np.float32)})
BOUND = 10 << 20


def store(folder: Path, run: str = "r", node: str = "n", model: bytes = LAYOUT.hash, bound: int = BOUND):
    return ResidualStore(folder, run, node, model, LAYOUT.size, bound)


def vector(value: float) -> np.ndarray:
    return np.full(LAYOUT.size, value, dtype=np.float32)


@settings(max_examples=25)
@given(st.lists(st.booleans(), min_size=1, max_size=8), st.integers(0, 2**31), st.sampled_from(["top64", "int4"]))
def test_a_lost_reply_loses_no_update_mass(
    tmp_path_factory: pytest.TempPathFactory, used: list[bool], seed: int, level: str
) -> None:
    folder = tmp_path_factory.mktemp("residuals")
    rng = np.random.default_rng(seed)
    meant, counted = np.zeros(LAYOUT.size), np.zeros(LAYOUT.size)
    ack = -1
    for round, arrives in enumerate(used):
        residuals = store(folder)  # each message is a process of its own
        delta = rng.standard_normal(LAYOUT.size).astype(np.float32)
        blob, left = encode_with_feedback(level, delta, residuals.load(ack), LAYOUT, {}, base=round)
        residuals.stage(round, left)
        ack = -1
        if arrives:
            meant += delta
            counted += decode(blob, LAYOUT).dense()
            ack = round
    kept = store(folder).load(ack)
    total = counted + (0 if kept is None else kept)
    assert np.abs(total - meant).max() <= 1e-6 * np.abs(meant).max(initial=1)  # one float32 addition a round


def test_a_residual_is_spent_only_on_acknowledgement(tmp_path: Path) -> None:
    store(tmp_path).stage(1, vector(1))
    np.testing.assert_array_equal(store(tmp_path).load(1), vector(1))
    store(tmp_path).stage(2, vector(2))
    np.testing.assert_array_equal(store(tmp_path).load(-1), vector(1))
    np.testing.assert_array_equal(store(tmp_path).load(2), vector(1))  # too late: rolled back already
    store(tmp_path).stage(3, vector(3))
    np.testing.assert_array_equal(store(tmp_path).load(2), vector(1))  # another round's acknowledgement


def test_runs_nodes_and_models_do_not_share_residuals(tmp_path: Path) -> None:
    store(tmp_path).stage(1, vector(1))
    assert store(tmp_path, run="other").load(1) is None
    assert store(tmp_path, node="other").load(1) is None
    assert store(tmp_path, model=bytes(32)).load(1) is None
    assert store(tmp_path, run="../../etc", node="/").load(1) is None
    assert store(tmp_path).load(1) is not None


@pytest.mark.parametrize("damage", ["flip", "cut", "grow", "empty", "other model"])
def test_a_damaged_file_is_removed_with_a_warning_and_the_node_starts_afresh(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    store(tmp_path).stage(1, vector(1))
    store(tmp_path).load(1)
    (path,) = tmp_path.glob("*/residual")
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[5000] ^= 1
    elif damage == "cut":
        del data[-1]
    elif damage == "grow":
        data += b"\0"
    elif damage == "empty":
        data.clear()
    else:
        data[4] ^= 1
    path.write_bytes(data)
    assert store(tmp_path).load(1) is None
    assert "'residual'" in caplog.text and "removed" in caplog.text
    assert not path.exists()


def test_a_disk_that_takes_no_more_is_named_and_leaves_the_old_file(tmp_path: Path) -> None:
    store(tmp_path).stage(1, vector(1))
    with full_disk(largest_bytes=8192), pytest.raises(ResidualRefused, match=f"File too large.*{tmp_path}"):
        store(tmp_path).stage(2, vector(2))
    assert [p.name for p in tmp_path.glob("*/*")] == ["pending"]
    np.testing.assert_array_equal(store(tmp_path).load(1), vector(1))


def test_old_runs_give_way_to_the_bound(tmp_path: Path) -> None:
    one = LAYOUT.size * 4 + 100
    for i in range(4):
        store(tmp_path, run=f"run {i}", bound=2 * one).stage(1, vector(i))
        os.utime(next(iter(sorted(tmp_path.iterdir(), key=os.path.getmtime, reverse=True))), (i, i))
    assert sum(p.stat().st_size for p in tmp_path.glob("*/*")) <= 2 * one
    assert store(tmp_path, run="run 3", bound=2 * one).load(1) is not None
    assert store(tmp_path, run="run 0", bound=2 * one).load(1) is None


def test_files_that_vanish_while_they_are_counted_hide_no_others_from_the_bound(tmp_path: Path) -> None:
    one = LAYOUT.size * 4 + 100
    store(tmp_path, run="old", bound=2 * one).stage(1, vector(1))
    (old,) = tmp_path.iterdir()
    for i in range(20):
        (old / f"vanished-{i}").symlink_to("nowhere")
    store(tmp_path, run="new", bound=one).stage(1, vector(2))
    assert sum(p.stat().st_size for p in tmp_path.glob("*/*")) <= one


def test_what_cannot_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResidualRefused, match="do not fit"):
        store(tmp_path, bound=1000).stage(1, vector(1))
