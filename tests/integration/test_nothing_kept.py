"""A run that ends without a model worth keeping fails, and data that cannot be measured are refused before it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hypergpu_fl.bench.in_process import InProcessGrid
from hypergpu_fl.config import Config, System, Training, load, runs_root, to_run_config
from hypergpu_fl.errors import RunFailed, TaskError
from hypergpu_fl.node.client_app import app
from hypergpu_fl.server.server_app import run
from hypergpu_fl.task.image import ImageTask
from hypergpu_fl.task.training import ImageResult

NODES = 4


def trained(folder: Path, **training: Any) -> dict[str, Any]:
    settings = {"training.num_nodes": NODES, "training.rounds": 3, "network.cohort": NODES, "blockchain.enabled": False}
    config: Config = load(
        overrides={
            **settings,
            **{f"training.{name}": value for name, value in training.items()},
            "system.runs_dir": str(folder),
            "system.run_name": "run",
        }
    ).config
    (folder / "run").mkdir()
    run(config, InProcessGrid(app, NODES, to_run_config(config), state_dir=folder / "nodes"), folder / "run")
    report: dict[str, Any] = json.loads((folder / "run" / "report.json").read_text())
    return report


@pytest.mark.parametrize("rounds", [1, 3])
def test_a_run_all_of_whose_rounds_were_rolled_back_fails_and_says_so(rounds: int, tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="nothing was trained: no round's model was kept") as caught:
        trained(tmp_path, server_learning_rate=1e5, rounds=rounds)
    assert "training.learning_rate" in caught.value.remedy
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert (report["status"], report["failure"]) == ("failed", caught.value.cause)
    assert [entry["kept"] for entry in report["history"]] == [False] * rounds
    assert all(entry["arrived"] for entry in report["history"])


def test_a_run_that_kept_its_models_completes(tmp_path: Path) -> None:
    report = trained(tmp_path)
    assert report["status"] == "completed" and [entry["kept"] for entry in report["history"]] == [True] * 3


class NanHeldOut(ImageTask):
    """Sound images to train and validate on, and one broken value among those that the server evaluates on."""

    def __init__(self, training: Training) -> None:
        super().__init__(training, runs_root(System()) / ".cache")

    def evaluate(self, model: torch.nn.Module, *, device: torch.device, partition: int | None = None) -> ImageResult:
        found = super().evaluate(model, device=device, partition=partition)
        return found if partition is not None else replace(found, loss=math.nan)


def test_held_out_data_of_nan_end_a_run_before_its_first_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERGPU_RUNS", str(tmp_path))
    with pytest.raises(TaskError, match="the loss of the fresh model on the held-out data is nan"):
        trained(tmp_path, task=f"{NanHeldOut.__module__}:{NanHeldOut.__name__}")
    assert not (tmp_path / "run" / "report.json").exists()
