"""A run is gone on with, and exported, with the task and the frozen parameters that trained it, or not at all."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from loguru import logger
from safetensors.torch import load_file
from torch import Tensor, nn

from hypergpu_fl.bench.in_process import InProcessGrid
from hypergpu_fl.cli import invoke
from hypergpu_fl.cli.preflight import try_apart
from hypergpu_fl.config import Config, to_run_config
from hypergpu_fl.errors import CheckpointError, TaskError
from hypergpu_fl.node import local_task
from hypergpu_fl.node.client_app import app
from hypergpu_fl.server.server_app import run
from hypergpu_fl.task import TorchTask

FILL, VERSION = "SAME_TASK_FILL", "SAME_TASK_VERSION"  # what a user changes in file or folder between two calls


class Adapted(TorchTask):
    """A frozen base below a layer that is trained."""

    @property
    def version(self) -> str:
        return os.environ.get(VERSION, "1")

    def model(self) -> nn.Module:
        base = nn.Linear(4, 4)
        nn.init.constant_(base.weight, float(os.environ.get(FILL, "0.5")))
        return nn.Sequential(base.requires_grad_(False), nn.Linear(4, 1))

    def data(self, partition: int | None) -> Any:
        inputs = torch.randn(40, 4, generator=torch.Generator().manual_seed(9 if partition is None else partition))
        return inputs, inputs.sum(1, keepdim=True)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return F.mse_loss(model(batch[0]), batch[1])


def configured(root: Path, *, rounds: int, resume: bool = False, task: str = f"{__name__}:Adapted") -> Config:
    return Config.model_validate(
        {
            "training": {"task": task, "num_nodes": 2, "rounds": rounds, "learning_rate": 0.05},
            "blockchain": {"enabled": False},
            "system": {"runs_dir": str(root), "run_name": "adapted", "resume": resume},
        }
    )


def train(config: Config) -> None:
    local_task._kept.clear()  # nodes' processes begin anew
    folder = Path(config.system.runs_dir) / config.system.run_name
    folder.mkdir(exist_ok=True, parents=True)
    run(config, InProcessGrid(app, 2, to_run_config(config), state_dir=folder / "nodes"), folder)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    train(configured(root, rounds=2))
    return root


def everything_in(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(("variable", "named"), [(FILL, "frozen weights"), (VERSION, "task version: '1' before, '7'")])
def test_another_task_does_not_go_on_with_a_run(
    root: Path, monkeypatch: pytest.MonkeyPatch, variable: str, named: str
) -> None:
    before = everything_in(root)
    monkeypatch.setenv(variable, "7")
    with pytest.raises(CheckpointError, match=named):
        train(configured(root, rounds=3, resume=True))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    with pytest.raises(TaskError, match=named):
        try_apart(configured(root, rounds=3, resume=True), Path(__file__).parents[2])
    assert everything_in(root) == before


def test_the_same_task_does(root: Path) -> None:
    train(configured(root, rounds=3, resume=True))
    assert json.loads((root / "adapted" / "report.json").read_text())["rounds"] == 3


@pytest.mark.parametrize("beside", [False, True])
def test_a_changed_file_of_the_task_is_told_and_begins_a_stretch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: bool
) -> None:
    text = Path(__file__).read_text()
    file = tmp_path / "changing_task.py"
    changed = tmp_path / "net_of_changing_task.py" if beside else file
    file.write_text(f"{text}\n\ndef later():\n    import {changed.stem}\n" if beside else text)
    monkeypatch.syspath_prepend(tmp_path)

    def train_with(source: str, rounds: int) -> list[bool]:
        changed.write_text(source)
        sys.modules.pop(file.stem, None)
        importlib.invalidate_caches()
        train(configured(tmp_path, rounds=rounds, resume=rounds > 1, task=f"{file.stem}:Adapted"))
        stretches: list[dict[str, Any]] = json.loads((tmp_path / "adapted" / "report.json").read_text())["stretches"]
        return ["task_file" in stretch for stretch in stretches]

    said: list[str] = []
    sink = logger.add(lambda message: said.append(message.record["message"]), level="WARNING")
    told = f"the code of {file.stem}:Adapted has changed: from round 3 on it trains as it is now"
    assert train_with(text, 1) == [True]
    assert train_with(text, 2) == [True, False]
    assert told not in said
    assert train_with(text + "# another learning rate\n", 3) == [True, False, True]
    logger.remove(sink)
    assert told in said


def test_trained_parameters_are_not_exported_beside_other_frozen_ones(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["export", "adapted", "--runs", str(root), "--out", str(tmp_path / "model")]
    assert invoke(words) == 0
    whole = load_file(tmp_path / "model" / "model.safetensors")
    monkeypatch.setenv(FILL, "9.0")
    before = everything_in(tmp_path)
    capfd.readouterr()
    assert invoke(words) == 1
    assert "frozen parameters" in (said := capfd.readouterr().err) and "--trained-only" in said
    assert everything_in(tmp_path) == before
    assert invoke([*words, "--trained-only"]) == 0
    trained = load_file(tmp_path / "model" / "model.safetensors")
    assert trained.keys() == {"1.weight", "1.bias"}
    assert all(torch.equal(tensor, whole[name]) for name, tensor in trained.items())
