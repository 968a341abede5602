"""A task that computes in bfloat16, and counts and measures in numpy's numbers and tensors, trains like any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hypergpu_fl.bench.in_process import InProcessGrid
from hypergpu_fl.config import Config, to_run_config
from hypergpu_fl.node.client_app import app
from hypergpu_fl.server.server_app import run
from hypergpu_fl.task import EvalResult, TorchTask, TrainResult


class Half(TorchTask):
    def model(self) -> nn.Module:
        return nn.Linear(6, 1, dtype=torch.bfloat16)

    def data(self, partition: int | None) -> Any:
        inputs = torch.randn(64, 6, generator=torch.Generator().manual_seed(7 if partition is None else partition))
        return inputs.bfloat16(), inputs.sum(1, keepdim=True).bfloat16()

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        return F.mse_loss(model(batch[0]), batch[1])


class Other(Half):
    """What a `Task` written without our base class may return."""

    def examples(self, partition: int) -> Any:
        return np.int64(super().examples(partition))

    def train(self, *args: Any, **named: Any) -> TrainResult:
        found = super().train(*args, **named)
        loss = np.float32(found.loss)
        return TrainResult(
            np.int64(found.count), found.steps, loss, loss**2, found.compute_s, {"lr": torch.tensor(0.1)}
        )

    def evaluate(self, *args: Any, **named: Any) -> EvalResult:
        found = super().evaluate(*args, **named)
        return EvalResult(torch.tensor(found.count), np.float32(found.loss), {"mse": torch.tensor(found.loss)})

    def validate(self, *args: Any, **named: Any) -> EvalResult:
        found = super().validate(*args, **named)
        return EvalResult(np.int64(found.count), torch.tensor(found.loss))

    def gradient(self, *args: Any, **named: Any) -> Any:
        return super().gradient(*args, **named)


@pytest.mark.parametrize("task", [Half, Other])
def test_a_run_takes_whatever_numbers_a_task_computes_with(task: type, tmp_path: Path) -> None:
    (folder := tmp_path / "run").mkdir()
    config = Config.model_validate(
        {
            "training": {"task": f"{__name__}:{task.__name__}", "num_nodes": 2, "rounds": 2, "learning_rate": 0.05},
            "system": {"run_name": "run", "device": "cpu"},
        }
    )
    run(config, InProcessGrid(app, 2, to_run_config(config), state_dir=tmp_path / "nodes"), folder)
    report = json.loads((folder / "report.json").read_text())
    assert report["status"] == "completed" and report["loss"] < report["untrained_loss"] / 2
    assert all(row["verdict"] != "refused" for entry in report["history"] for row in entry["nodes"])
