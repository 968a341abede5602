"""The codec's benchmark tells what it promises, on models small enough for a test."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hypergpu_fl.bench.codec import run_codec, trained_updates
from hypergpu_fl.bench.codec_accuracy import DATASETS, VARIANTS, Variant, run_codec_accuracy
from hypergpu_fl.bench.device_codec import run_device_codec


def test_rows_of_rates_have_the_promised_keys() -> None:
    lines: list[str] = []
    rows = run_codec(
        levels=("int8", "top32"), architecture="mlp", values=100_000, steps=2, repeats=1, progress=lines.append
    )
    assert rows == json.loads(json.dumps(rows))
    assert [(row["source"], row["codec"]) for row in rows] == [
        ("mlp", "int8"),
        ("mlp", "top32"),
        ("gaussian", "int8"),
        ("gaussian", "top32"),
    ]
    rates = {"encode_bytes_per_s", "decode_bytes_per_s", "memcpy_bytes_per_s"}
    assert all(row.keys() == {"codec", "source", "ratio", "fidelity"} | rates for row in rows)
    assert all(row[key] > 0 for row in rows for key in rates)
    assert rows[2]["ratio"] == pytest.approx(4.2, abs=0.2) and rows[3]["ratio"] > 100
    assert rows[2]["fidelity"] == pytest.approx(1, abs=1e-3)
    assert 0.05 < rows[3]["fidelity"] < 0.3 < rows[1]["fidelity"] < 0.9  # noise has no few large values, training has
    assert len(lines) == 6


def test_rows_of_rates_on_a_device_have_the_promised_keys() -> None:
    lines: list[str] = []
    rows = run_device_codec(
        torch.device("cpu"),
        levels=("fp16", "int8", "top32"),
        architecture="mlp",
        values=100_000,
        steps=2,
        repeats=1,
        rotated_bytes=3_000_000,
        progress=lines.append,
    )
    assert rows == json.loads(json.dumps(rows))
    assert [(row["source"], row["codec"]) for row in rows[2:4]] == [("mlp", "top32"), ("gaussian", "fp16")]
    rates = {f"{name}_bytes_per_s" for name in ("device_encode", "copy", "encode", "decode")}
    about = {"codec", "source", "values", "device", "kernels", "ratio"}
    assert all(row.keys() == about | rates and all(row[key] > 0 for key in rates) for row in rows)
    assert rows[5]["values"] == 100_000 and rows[5]["ratio"] > 100
    assert len(lines) == 8


def test_updates_are_made_by_training_and_the_same_each_time() -> None:
    layout, _, (first, second) = trained_updates("mlp", "", 3, 0)
    assert first.size == layout.size and np.linalg.norm(first) > 0 and not np.array_equal(first, second)
    np.testing.assert_array_equal(trained_updates("mlp", "", 3, 0)[2][1], second)


def test_real_images_are_used_where_a_data_root_is_given(shared_data: Path) -> None:
    layout, _, updates = trained_updates("mlp", str(shared_data), 1, 0)
    assert layout.size == 784 * 128 + 128 + 128 * 10 + 10 and len(updates) == 2


def test_a_seed_may_stand_for_several_trainings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dense(trainings: int, seeds: tuple[int, ...]) -> float:
        monkeypatch.setitem(DATASETS["digits"], "trainings", trainings)
        (row,) = run_codec_accuracy(seeds=seeds, variants=(), rounds=2, steps=(1.0,), cache=tmp_path)
        assert (row["seeds"], row["trainings"]) == (len(seeds), trainings)
        return float(row["accuracy"])

    assert dense(2, (1, 2)) == pytest.approx(dense(1, (2, 3, 4, 5)))


def test_accuracy_is_compared_seed_by_seed(tmp_path: Path) -> None:
    heard: list[float] = []
    both = next(v for v in VARIANTS if v.name == "top32 both ways")
    lossy = Variant("carried", "top32", loss=0.5, on_loss="carry")
    rows = run_codec_accuracy(
        seeds=(0, 1),
        variants=(Variant("lossless", "fp32", "int8"), both, lossy, Variant("lost", loss=0.5)),
        rounds=6,
        steps=(1.0, 2.0),
        tuning_seeds=(5,),
        cache=tmp_path / "cache",
        progress=lambda share, label: heard.append(share),
    )
    assert rows == json.loads(json.dumps(rows))
    assert [row["codec"] for row in rows] == ["dense", "lossless", "top32 both ways", "carried", "lost"]
    dense, lossless, twice, carried, lost = rows
    assert dense["difference"] == 0 and dense["ratio_round_trip"] == 1
    assert abs(lossless["difference"]) < 1.0
    assert twice["ratio_up"] > 60 and twice["ratio_down"] > 15  # six rounds bear the whole views
    assert twice["lower"] < twice["difference"] < twice["upper"]
    assert carried["ratio_down"] == 1 and lost["ratio_up"] == 1
    assert heard == pytest.approx([n / 12 for n in range(1, 13)])  # 2 to tune, 2 x 2 dense, 3 x 2 compressed
