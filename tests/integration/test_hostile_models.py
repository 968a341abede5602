"""No node ends a run, or holds it up for ever, by what it makes of the model: the server's own parts do their work."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message, RecordDict

from hypergpu_fl.bench.attacks import ATTACKS, Attack, HostileNode, twisted
from hypergpu_fl.bench.hostile import rounds_of
from hypergpu_fl.bench.in_process import InProcessGrid
from hypergpu_fl.bench.race import one_thread
from hypergpu_fl.config import Config, System, Training, runs_root, to_run_config
from hypergpu_fl.errors import RunFailed
from hypergpu_fl.ledger.identity import derive_simulated_key
from hypergpu_fl.node.client_app import app
from hypergpu_fl.node.local_task import local_task
from hypergpu_fl.server import checkpoint
from hypergpu_fl.server.server_app import run
from hypergpu_fl.task import EvalResult
from hypergpu_fl.task.image import ImageTask
from strategies import wire
from strategies.event_log import FILE
from strategies.round.lines import read_line

NAMED = {attack.name: attack for attack in ATTACKS}


class FewHostile(InProcessGrid):
    """Nodes in this process, the last ``hostile`` of which are hostile."""

    def __init__(self, config: Config, attack: Attack | None, hostile: int, folder: Path) -> None:
        nodes = config.training.num_nodes
        super().__init__(app, nodes, to_run_config(config), state_dir=folder)
        self._attack = attack
        layout = local_task(config).layout
        self.hostile = {
            share + 1: HostileNode(share, derive_simulated_key(config.training.seed, share), layout)
            for share in range(nodes - hostile, nodes)
        }

    def _answer(self, message: Message) -> Message:
        answer = super()._answer(message)
        node = self.hostile.get(message.metadata.dst_node_id)
        return twisted(node, self._attack, message, answer) if node is not None and self._attack else answer


def played(
    tmp_path: Path, attack: Attack | None, *, nodes: int, hostile: int, rounds: int = 8, **training: Any
) -> dict[str, Any]:
    """The report of a run against this attack."""
    scoring = training.pop("scoring", "aumann_shapley")
    if attack is not None and not training.get("task"):
        training.setdefault("model_architecture", attack.architecture)
    config = Config.model_validate(
        {
            "training": {"num_nodes": nodes, "rounds": rounds, **training},
            "blockchain": {"scoring": scoring},
            "system": {"run_name": "hostile", "device": "cpu"},
        }
    )
    (folder := tmp_path / "run").mkdir()
    with one_thread():
        run(config, FewHostile(config, attack, hostile, tmp_path / "nodes"), folder)
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    assert report["status"] == "completed" and len(report["history"]) == rounds
    return report


@pytest.mark.parametrize(("nodes", "hostile"), [(3, 1), (10, 3)])
def test_a_table_of_indices_is_not_the_nodes_to_change(nodes: int, hostile: int, tmp_path: Path) -> None:
    report = played(tmp_path, NAMED["moved_places"], nodes=nodes, hostile=hostile, rounds=4)
    assert report["accuracy"] > 0.3
    saved = checkpoint.load_model(tmp_path / "run" / "checkpoints")
    np.testing.assert_array_equal(saved.vectors["buffer/place"], np.arange(64))


@pytest.mark.parametrize("scoring", ["aumann_shapley", "shapley", "leave_one_out", "improvement", "weight"])
def test_fourteen_layers_of_hostile_statistics_end_no_run(scoring: str, tmp_path: Path) -> None:
    played(tmp_path, NAMED["forged_statistics"], nodes=3, hostile=2, rounds=3, scoring=scoring)


def _huge(node: HostileNode, content: RecordDict, order: wire.Order) -> None:
    """Values with which no loss is finite, from the third update on."""
    vector_P, buffers = node.decoded(content)
    if node.orders >= 2:
        node.put(content, order, np.full_like(vector_P, 1e30), buffers)


class Touchy(ImageTask):
    """A task whose evaluation raises on a model of large values, as one that indexes by what it computes does."""

    most = 1e3

    def __init__(self, training: Training) -> None:
        super().__init__(training, runs_root(System()) / ".cache")

    def evaluate(self, model: Any, *, device: Any, partition: int | None = None) -> EvalResult:
        largest = max(float(p.detach().abs().max()) for p in model.parameters())
        if partition is None and largest > self.most:
            raise IndexError("index 1000000 is out of range")
        return super().evaluate(model, device=device, partition=partition)


class Broken(Touchy):
    """From the second round on no model can be evaluated."""

    evaluations = 0

    def evaluate(self, model: Any, *, device: Any, partition: int | None = None) -> EvalResult:
        if partition is None:
            self.evaluations += 1
        if self.evaluations > 3:
            raise FileNotFoundError("the test set is gone")
        return super().evaluate(model, device=device, partition=partition)


class Spent(Touchy):
    """After four validations no model can be validated."""

    validations = 0

    def validate(self, model: Any, *, device: Any) -> EvalResult:
        self.validations += 1
        return EvalResult(1, float("nan")) if self.validations > 4 else super().validate(model, device=device)


def back(tmp_path: Path) -> list[int]:
    """Rounds that began with a roll-back."""
    closed = rounds_of(tmp_path / "run" / FILE)
    return [each["round"] for each in closed if each.get("rolled_back") is not None]


FIRST = replace(NAMED["exploding_updates"], reply=_huge)


@pytest.mark.parametrize("task", ["", f"{__name__}:Touchy"])
def test_a_node_that_explodes_every_model_is_found_and_excluded_whatever_the_evaluation_does(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # else its updates are refused or shortened, and explode no model
    monkeypatch.setattr("strategies.round.histories.NormHistory.length", lambda *args, **named: 1.0)
    report = played(tmp_path, FIRST, nodes=3, hostile=1, rounds=12, task=task)
    log = (tmp_path / "run" / FILE).read_bytes().splitlines()
    excluded = [c["row"] for line in log for c in read_line(line, "").commands if c["kind"] == "exclude"]
    assert len(back(tmp_path)) == 3 and excluded == [2] and report["accuracy"] > 0.5


def test_an_evaluation_that_fails_whatever_the_model_ends_the_run_with_its_cause(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="no roll-back helps: .*the test set is gone"):
        played(tmp_path, None, nodes=3, hostile=0, task=f"{__name__}:Broken")


def test_a_validation_that_fails_whatever_the_model_ends_the_run_with_its_cause(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="cannot be priced, nor can the model before it"):
        played(tmp_path, None, nodes=3, hostile=0, task=f"{__name__}:Spent")
