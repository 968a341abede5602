"""A task of one's own, from a folder with nothing else in it, through `hypergpu run` and Flower's simulation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hypergpu_fl.cli import invoke

TASK = """\
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from curves import points
from hypergpu_fl.task import TorchTask


class Curve(TorchTask):
    def model(self):
        width = self.training.options["width"]
        return nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, 1))

    def data(self, partition):
        samples = int(Path(self.training.options["samples"]).read_text())
        return points(samples, seed=-1 if partition is None else partition)

    def loss(self, model, batch):
        inputs, targets = batch
        return F.mse_loss(model(inputs), targets)

    def metrics(self, model, batch):
        inputs, targets = batch
        return {"mae": (model(inputs) - targets).abs().mean()}

    def identity(self):
        return {**super().identity(), "points": points.__doc__}
"""
CURVES = '''\
import torch


def points(samples, seed):
    """A sine between -3 and 3."""
    generator = torch.Generator().manual_seed(seed + 1)
    inputs = 6 * torch.rand((samples, 1), generator=generator) - 3
    return inputs, torch.sin(inputs)
'''
CONFIG = """\
[training]
task = "curve:Curve"
num_nodes = 3
rounds = 4
learning_rate = 0.1
target = "mae <= 0.9"

[training.options]
width = 16
samples = "data/samples.txt"
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "mine"
    (folder / "data").mkdir(parents=True)
    files = {"curve.py": TASK, "curves.py": CURVES, "run.toml": CONFIG, "data/samples.txt": "64"}
    for name, text in files.items():
        (folder / name).write_text(text)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("HYPERGPU_RUNS")
    return folder


def test_a_task_of_ones_own_runs_from_its_folder_and_is_called_by_its_name(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["run", "--config", "run.toml"]) == 0
    out = capfd.readouterr().out
    assert "run curve-1: curve:Curve, 3 nodes, 4 rounds" in out
    assert "mlp" not in out and "digits" not in out and "accuracy" not in out and "nan" not in out
    assert "target mae <= 0.9 reached" in out
    told = ["1 of the run's 3 nodes works at a time, half", "local work in round 1", "round   1/4"]
    assert sorted(told, key=out.index) == told
    report = json.loads((project / "runs" / "curve-1" / "report.json").read_text())
    assert (report["model"], report["dataset"], report["unit"]) == ("curve:Curve", None, "examples")
    last = report["history"][-1]
    assert last["accuracy"] is None and report["accuracy"] is None
    assert last["metrics"].keys() == {"mae"} and last["metrics"]["mae"] <= 0.9
    assert report["metrics"] == last["metrics"] and last["loss"] == report["loss"]
    assert last["arrived"] > 0 and report["unfit"] == {}
    assert report["warning"] is None and report["loss"] < report["untrained_loss"]


def test_a_run_whose_model_is_no_better_than_the_untrained_one_says_so_at_its_end(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = ("learning_rate=0.2", "local_steps=5", "rounds=1", "target=mae <= 0.0001")
    assert invoke(["run", "--config", "run.toml", *(f"--set=training.{setting}" for setting in settings)]) == 0
    out = capfd.readouterr().out
    report = json.loads((project / "runs" / "curve-1" / "report.json").read_text())
    assert report["loss"] >= report["untrained_loss"] and report["status"] == "completed"
    assert report["warning"].startswith("the last model is no better than the untrained one: loss ")
    assert "warning: the last model is no better" in out and "lower training.learning_rate" in out
    assert "target mae <= 0.0001 not reached in 1 round\n" in out


def test_a_target_that_the_task_does_not_measure_is_refused_before_the_first_round(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["run", "--config", "run.toml", "--set", "training.target=f1 >= 0.9"]) == 2
    err = capfd.readouterr().err
    assert "training.target = 'f1 >= 0.9', but the task measures loss, mae" in err
