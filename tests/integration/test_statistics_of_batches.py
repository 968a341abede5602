"""Models with BatchNorm train under every server optimiser, whatever the scale of what they normalise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from hypergpu_fl.bench.in_process import InProcessGrid
from hypergpu_fl.config import Config, to_run_config, unflatten
from hypergpu_fl.node.client_app import app
from hypergpu_fl.server import checkpoint
from hypergpu_fl.server.server_app import run
from hypergpu_fl.task import TorchTask

NODES = 4


class Digits(TorchTask):
    """Eight by eight digits, and a CNN whose first layer normalises them as they are."""

    largest = 255.0
    momentum: float | None = 0.1

    def model(self) -> nn.Module:
        return nn.Sequential(
            nn.BatchNorm2d(1, momentum=self.momentum),
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16, momentum=self.momentum),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(1024, 10),
        )

    def data(self, partition: int | None) -> tuple[Tensor, Tensor]:
        bunch = load_digits()
        held_out = np.arange(len(bunch.target)) % 5 == 0
        chosen = held_out if partition is None else ~held_out & (np.arange(len(bunch.target)) % NODES == partition)
        inputs = bunch.images[chosen, None] * (self.largest / 16)
        return torch.as_tensor(inputs, dtype=torch.float32), torch.as_tensor(bunch.target[chosen])

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {"accuracy": (model(batch[0]).argmax(1) == batch[1]).float().mean()}


class Sixteen(Digits):
    largest = 65_535.0


class Cumulative(Digits):
    momentum = None  # a plain average over all batches


class Row(Digits):
    def model(self) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10))


SETTINGS: dict[str, dict[str, Any]] = {
    "FedAvgM at its defaults": {"task": Digits, "server_optimizer": "fedavgm"},
    "pixels of 0 to 255": {"task": Digits},
    # of the same kind
    "pixels of 0 to 65,535": {"task": Sixteen},
    "FedYogi": {"task": Digits, "server_optimizer": "fedyogi", "server_learning_rate": 0.05},
    "a plain average of all batches": {"task": Cumulative, "server_optimizer": "fedavgm"},
    "a row of features": {"task": Row, "server_optimizer": "fedavgm"},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_batches_statistics_stay_in_their_domain_and_every_update_counts(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    task = f"{__name__}:{settings['task'].__name__}"
    given = {f"training.{name}": value for name, value in (settings | {"task": task}).items()}
    given |= {"training.num_nodes": NODES, "training.rounds": 6, "blockchain.enabled": False}
    config = Config.model_validate(unflatten(given | {"system.runs_dir": str(tmp_path), "system.run_name": "run"}))
    (folder := tmp_path / "run").mkdir()
    run(config, InProcessGrid(app, NODES, to_run_config(config), state_dir=tmp_path / "nodes"), folder)
    report = json.loads((folder / "report.json").read_text(), parse_constant=pytest.fail)
    refused = [row["refusal"] for entry in report["history"] for row in entry["nodes"] if row["verdict"] == "refused"]
    assert refused == []
    assert report["accuracy"] > 0.5 and np.isfinite(report["loss"])
    saved = checkpoint.load_model(folder / "checkpoints")
    buffers = {name.removeprefix("buffer/"): array for name, array in saved.vectors.items() if name != "average"}
    arrays = saved.layout.restore(saved.vectors["average"], buffers)
    variances = [array for name, array in arrays.items() if name.endswith("running_var")]
    assert variances and all((array > 0).all() for array in variances)
    assert all(np.isfinite(array).all() for array in arrays.values())
