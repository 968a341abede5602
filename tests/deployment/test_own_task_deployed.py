"""A task of one's own reaches real nodes by itself; a node that lacks a library for it is named."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hypergpu_fl.cli.bundle import app_with_task
from hypergpu_fl.cli.submission import submit
from hypergpu_fl.config import Config
from tests.deployment.conftest import MakeStack
from tests.deployment.relay import Shape
from tests.deployment.stack import CONNECTION, REPOSITORY

pytestmark = [pytest.mark.deployment, pytest.mark.slow]

LINK = Shape(50e6, 50e6, 0.01)
LIMIT_S = 900.0
TASK = """\
import rare_library
import torch
from torch import nn

from hypergpu_fl.task import TorchTask


class Line(TorchTask):
    def model(self):
        return nn.Linear(1, 1)

    def data(self, partition):
        inputs = torch.linspace(-1, 1, 32)[:, None]
        return inputs, rare_library.slope(inputs)

    def loss(self, model, batch):
        inputs, targets = batch
        return (model(inputs) - targets).square().mean()

    def train(self, model, partition, context):
        seen = context.folder / "rounds"
        rounds = int(seen.read_text()) if seen.exists() else 0
        seen.write_text(str(rounds + 1))
        result = super().train(model, partition, context)
        site = context.node_config.get("site")
        assert site == f"site-{partition}" or context.round == 1
        return result
"""
LIBRARY = "def slope(inputs):\n    return 3 * inputs\n"


def test_a_task_of_ones_own_reaches_the_nodes_and_the_one_without_its_library_is_named(
    make_stack: MakeStack, configure: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, library = tmp_path / "mine", tmp_path / "library"
    for folder, name, text in ((mine, "line.py", TASK), (library, "rare_library.py", LIBRARY)):
        folder.mkdir()
        (folder / name).write_text(text)
    monkeypatch.chdir(mine)
    stack = make_stack([LINK] * 3)
    poor = stack.environ.get("PYTHONPATH", "")
    stack.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(library), poor]))
    stack.start_superlink()
    stack.register()
    for index in range(3):
        stack.start_node(index, environ={"PYTHONPATH": poor} if index == 1 else None, site=f"site-{index}")
    config = configure(
        stack, "own", training__task="line:Line", training__rounds=3, training__target="loss <= 0", network__cohort=2
    )
    with app_with_task(REPOSITORY, config.training) as app:
        submission = submit(config, app=app, connection=CONNECTION, environ=stack.environ, scratch=stack.folder)
    status, details = stack.wait(submission, LIMIT_S)
    assert status == "finished:completed", f"{status}: {details}\n{submission.log()[-3000:]}"
    log = (stack.runs / "own" / "run.log").read_text()
    assert "node-1 cannot take part: " in log
    assert "line.py:1: the module `rare_library` is not installed here; `pip install rare_library`" in log
    report = json.loads((stack.runs / "own" / "report.json").read_text())
    assert report["model"] == "line:Line" and len(report["unfit"]) == 1
    assert len(report["history"]) == 3 and all(entry["arrived"] for entry in report["history"])
    kept = {file.parent.name.split("-")[-1]: int(file.read_text()) for file in tmp_path.glob("state-*/task/*/rounds")}
    assert kept.keys() == {"0", "2"} and max(kept.values()) > 1, "a node's folder stays from one round to the next"
