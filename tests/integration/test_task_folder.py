"""The folder that a task keeps on a node stays for the whole run, also one that is resumed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hypergpu_fl.bench import in_process
from hypergpu_fl.config import Config, to_run_config
from hypergpu_fl.node.client_app import app
from hypergpu_fl.server.server_app import run
from hypergpu_fl.task import TorchTask, TrainContext, TrainResult

NODES = 2


class Remembering(TorchTask):
    def model(self) -> nn.Module:
        return nn.Linear(3, 1)

    def data(self, partition: int | None) -> Any:
        inputs = torch.randn(32, 3, generator=torch.Generator().manual_seed(9 if partition is None else partition))
        return inputs, inputs.sum(1, keepdim=True)

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        return F.mse_loss(model(batch[0]), batch[1])

    def train(self, model: nn.Module, partition: int, context: TrainContext) -> TrainResult:
        result = super().train(model, partition, context)
        with (context.folder / "trained").open("a") as file:
            file.write(f"{partition}\n")
        trained = (context.folder / "trained").read_text().splitlines()
        assert set(trained) == {str(partition)}
        return replace(result, metrics={"trained": len(trained)})


class Nodes(in_process.InProcessGrid):
    def __init__(self, config: Config, folder: Path, *, named: bool) -> None:
        super().__init__(app, NODES, to_run_config(config), state_dir=folder)
        for context in self._contexts.values():
            if not named:
                del context.node_config["state-dir"]


@pytest.mark.parametrize("named", [True, False], ids=["a folder of the node", "a simulated node"])
def test_a_resumed_run_finds_what_its_task_kept_and_another_run_does_not(
    named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started(number: int, name: str, rounds: int, *, resume: bool = False) -> list[float]:
        monkeypatch.setattr(in_process, "RUN_ID", number)  # Flower numbers every start
        config = Config.model_validate(
            {
                "training": {"task": f"{__name__}:Remembering", "num_nodes": NODES, "rounds": rounds},
                "network": {"mode": "sync", "cohort": NODES, "quota": 1.0},
                "system": {"runs_dir": str(tmp_path), "run_name": name, "resume": resume, "device": "cpu"},
            }
        )
        (tmp_path / name).mkdir(exist_ok=True)
        run(config, Nodes(config, tmp_path / "nodes", named=named), tmp_path / name)
        history = json.loads((tmp_path / name / "report.json").read_text())["history"]
        return [row["metrics"]["trained"] for entry in history for row in entry["nodes"]]

    assert started(1, "one", 2) == [1, 1, 2, 2]
    assert started(2, "one", 3, resume=True) == [1, 1, 2, 2, 3, 3]
    assert started(3, "other", 1) == [1, 1]
