"""The folder that a task keeps on a node stays for the whole run, also one that is resumed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from flwr.app import Context, RecordDict
from loguru import logger
from torch import nn

from hypergpu_fl.bench import in_process
from hypergpu_fl.config import Config, to_run_config
from hypergpu_fl.node.client_app import app
from hypergpu_fl.server.server_app import main, run
from hypergpu_fl.task import EvalResult, TorchTask, TrainContext, TrainResult

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


class Mortal(Remembering):
    """Its server dies while it evaluates the second round."""

    most = 3

    def evaluate(self, *args: Any, **named: Any) -> EvalResult:
        self.evaluations = getattr(self, "evaluations", 0) + 1
        if self.evaluations > self.most:
            raise KeyboardInterrupt
        return super().evaluate(*args, **named)


def test_a_simulated_run_that_was_killed_leaves_what_its_nodes_kept_only_until_it_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started(number: int, *, resume: bool) -> None:
        monkeypatch.setattr(in_process, "RUN_ID", number)
        config = Config.model_validate(
            {
                "training": {"task": f"{__name__}:Mortal", "num_nodes": NODES, "rounds": 3},
                "system": {"runs_dir": str(tmp_path), "run_name": "one", "resume": resume, "device": "cpu"},
            }
        )
        context = Context(number, 0, {}, RecordDict(), dict(to_run_config(config)))
        main(Nodes(config, tmp_path / "nodes", named=False), context)

    try:
        with pytest.raises(KeyboardInterrupt):
            started(1, resume=False)
        assert any((tmp_path / "one" / ".nodes").iterdir())
        monkeypatch.setattr(Mortal, "most", 99)
        started(2, resume=True)
    finally:
        logger.remove()
    assert not (tmp_path / "one" / ".nodes").exists() and not (tmp_path / ".nodes").exists()
    assert (tmp_path / "one" / "task").is_dir()
