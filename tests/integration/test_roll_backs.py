"""A healthy run is never rolled back, whoever joins it late; one whose learning rate is far too high is."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

from hypergpu_fl.bench.hostile import rounds_of
from hypergpu_fl.bench.in_process import InProcessGrid
from hypergpu_fl.bench.race import one_thread
from hypergpu_fl.bench.scenarios import CORRELATED_TASK, slow_nodes
from hypergpu_fl.config import Config, to_run_config
from hypergpu_fl.node.client_app import app
from hypergpu_fl.server.server_app import run
from strategies import wire
from strategies.event_log import FILE

pytestmark = pytest.mark.slow

NODES, ROUNDS = 10, 20
LATE_FROM, TOO_FAST_FROM = 8, 10
LEARNING_RATE = 0.1
SCENARIOS = {"independent": "", "correlated": CORRELATED_TASK}


class LateGrid(InProcessGrid):
    """The slowest fifth comes in round ``LATE_FROM``; that is when a correlated run meets two of its classes."""

    round = 1

    def get_node_ids(self) -> Iterable[int]:
        here = self.round >= LATE_FROM
        return [i for i in super().get_node_ids() if here or i - 1 not in slow_nodes(NODES)]

    def _answer(self, message: Message) -> Message:
        if wire.ORDER in message.content.config_records:
            self.round = wire.Order.read(message.content).round
        return super()._answer(message)


class HastyGrid(InProcessGrid):
    """All nodes train at a hundred times the learning rate from round ``TOO_FAST_FROM`` on."""

    def _answer(self, message: Message) -> Message:
        if wire.ORDER in message.content.config_records and wire.Order.read(message.content).round >= TOO_FAST_FROM:
            for context in self._contexts.values():
                context.run_config["training.learning_rate"] = 100 * LEARNING_RATE
        return super()._answer(message)


def config_of(seed: int, dataset: str, data_root: Path | str = "", **training: Any) -> Config:
    return Config.model_validate(
        {
            "training": {
                "num_nodes": NODES,
                "rounds": ROUNDS,
                "learning_rate": LEARNING_RATE,
                "seed": seed,
                "dataset": dataset,
                "data_root": str(data_root),
                **training,
            },
            "system": {"run_name": "roll-backs", "device": "cpu"},
        }
    )


def played(kind: type[InProcessGrid], config: Config, folder: Path) -> list[dict[str, Any]]:
    """The rounds of a run on such nodes."""
    (folder / "run").mkdir()
    with one_thread():
        run(config, kind(app, NODES, to_run_config(config), state_dir=folder / "nodes"), folder / "run")
    rounds = list(rounds_of(folder / "run" / FILE))
    assert len(rounds) == ROUNDS
    return rounds


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("dataset", ["digits", "mnist"])
def test_a_healthy_run_is_never_rolled_back_by_nodes_that_join_late_with_classes_of_their_own(
    dataset: str, scenario: str, seed: int, shared_data: Path, tmp_path: Path
) -> None:
    config = config_of(seed, dataset, "" if dataset == "digits" else shared_data, task=SCENARIOS[scenario])
    rounds = played(LateGrid, config, tmp_path)
    assert not [each["round"] for each in rounds if each.get("rolled_back") is not None]


@pytest.mark.parametrize("seed", range(10))
def test_a_learning_rate_a_hundred_times_too_high_from_round_ten_on_is_rolled_back(seed: int, tmp_path: Path) -> None:
    rounds = played(HastyGrid, config_of(seed, "digits"), tmp_path)
    back = [each["round"] for each in rounds if each.get("rolled_back") is not None]
    assert back and min(back) > TOO_FAST_FROM
