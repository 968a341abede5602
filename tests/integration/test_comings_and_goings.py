"""A node that connects, or goes, while a run is under way: the real server and nodes, in this process."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from loguru import logger

from hypergpu_fl.bench.in_process import InProcessGrid
from hypergpu_fl.config import Config, to_run_config
from hypergpu_fl.node.client_app import app
from hypergpu_fl.server.server_app import run

NODES = 3


class Changing(InProcessGrid):
    """Its last node connects after round 1, and goes after round 3."""

    rounds = 0

    def get_node_ids(self) -> Iterable[int]:
        ids = list(super().get_node_ids())
        return ids if 1 <= self.rounds < 3 else ids[:-1]


def test_a_run_says_in_which_round_a_node_joined_and_left(tmp_path: Path) -> None:
    config = Config.model_validate(
        {
            "training": {"num_nodes": NODES, "rounds": 5},
            "network": {"cohort": NODES, "quota": 1.0, "mode": "sync"},
            "blockchain": {"enabled": False},
            "system": {"runs_dir": str(tmp_path), "run_name": "run"},
        }
    )
    grid = Changing(app, NODES, to_run_config(config), state_dir=tmp_path / "nodes")
    said: list[str] = []

    def keep(message: str) -> None:
        grid.rounds += message.startswith("round ")
        said.append(message)

    sink = logger.add(keep, format="{message}")
    (tmp_path / "run").mkdir()
    try:
        run(config, grid, tmp_path / "run")
    finally:
        logger.remove(sink)
    told = [line.split(";")[0] for line in said if "connected" in line]
    assert told == ["node-2 joined", "node-2 left"]
