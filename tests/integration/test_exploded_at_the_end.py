"""A model that exploded in the last round is not the one taken home: no round follows that would put it back."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message
from safetensors.torch import load_file

from hypergpu_fl.bench.in_process import InProcessGrid
from hypergpu_fl.config import Config, System, Training, load, runs_root, to_run_config
from hypergpu_fl.node.client_app import app
from hypergpu_fl.server.export import export
from hypergpu_fl.server.server_app import run
from hypergpu_fl.task import fresh_model
from hypergpu_fl.task.image import ImageTask
from hypergpu_fl.task.training import ImageResult
from strategies import wire

NODES, ROUNDS = 3, 4


class BrokenFrom(ImageTask):
    """Images whose model cannot be measured from a round on."""

    broken = False

    def __init__(self, training: Training) -> None:
        super().__init__(training, runs_root(System()) / ".cache")

    def evaluate(self, model: torch.nn.Module, *, device: torch.device, partition: int | None = None) -> ImageResult:
        found = super().evaluate(model, device=device, partition=partition)
        return replace(found, loss=math.nan) if self.broken and partition is None else found


class Grid(InProcessGrid):
    """Nodes by whose orders the round is known."""

    broken_from = 0

    def _answer(self, message: Message) -> Message:
        if wire.ORDER in message.content.config_records:
            BrokenFrom.broken = wire.Order.read(message.content).round >= self.broken_from
        return super()._answer(message)


@pytest.mark.parametrize("broken_from", [2, ROUNDS])
def test_the_last_sound_model_is_exported_where_the_last_one_exploded(
    broken_from: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPERGPU_RUNS", str(tmp_path))
    monkeypatch.setattr(BrokenFrom, "broken", False)
    monkeypatch.setattr(Grid, "broken_from", broken_from)
    overrides: dict[str, Any] = {
        "training.num_nodes": NODES,
        "training.rounds": ROUNDS,
        "training.task": f"{BrokenFrom.__module__}:{BrokenFrom.__name__}",
        "network.cohort": NODES,
        "blockchain.enabled": False,
        "system.runs_dir": str(tmp_path),
        "system.run_name": "run",
    }
    config: Config = load(overrides=overrides).config
    folder = tmp_path / "run"
    folder.mkdir()
    run(config, Grid(app, NODES, to_run_config(config), state_dir=tmp_path / "nodes"), folder)
    history = json.loads((folder / "report.json").read_text())["history"]
    sound = broken_from - 1
    assert [entry["kept"] for entry in history] == [entry["round"] <= sound for entry in history]

    about = export(folder, tmp_path / "out")
    assert about["round"] == sound and about["metrics"]["loss"] == history[sound - 1]["loss"]
    BrokenFrom.broken = False
    task = BrokenFrom(config.training)
    model = fresh_model(task, 0)
    model.load_state_dict(load_file(tmp_path / "out" / about["file"]))
    found = task.evaluate(model, device=torch.device("cpu"))
    assert found.loss == pytest.approx(history[sound - 1]["loss"], rel=1e-6)
