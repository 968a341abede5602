"""The rows of the deployed race, and the peer's app."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

from hypergpu_fl.bench.deployment import peer_app, run_deployment
from hypergpu_fl.config import Config

APP = Path(__file__).resolve().parents[3]


def test_rows_tell_when_each_side_reached_the_target(tmp_path: Path) -> None:
    ours = [
        {"round": 1, "seconds": 10.0, "accuracy": 0.5, "bytes_up": 3, "bytes_down": 4},
        {"round": 2, "seconds": 21.0, "accuracy": 0.95, "bytes_up": 3, "bytes_down": 4},
        {"round": 3, "seconds": 33.0, "accuracy": 0.97, "bytes_up": 3, "bytes_down": 4},
    ]
    peers = [{"round": 1, "seconds": 100.0, "accuracy": 0.6, "bytes_up": 50, "bytes_down": 60}]

    def train(config: Config, folder: Path) -> None:
        app = tomllib.loads((folder / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["components"]["serverapp"]
        run = tmp_path / config.system.run_name
        run.mkdir()
        (run / "report.json").write_text(json.dumps({"history": peers if "fedavg" in app else ours}))

    config = Config().model_copy(update={"training": Config().training.model_copy(update={"target_accuracy": 0.9})})
    first, second = run_deployment(config, app=APP, runs=tmp_path, train=train)
    assert (first["strategy"], first["time_to_target_s"], first["rounds"]) == ("hypergpu", 21.0, 2)
    assert (first["bytes_up"], first["bytes_down"]) == (6, 8)
    assert (second["strategy"], second["time_to_target_s"], second["bytes_up"]) == ("fedavg", None, 50)


def test_the_peers_app_differs_in_its_server_app_alone(tmp_path: Path) -> None:
    peer = peer_app(APP, tmp_path / "peer")
    ours = tomllib.loads((APP / "pyproject.toml").read_text())
    theirs = tomllib.loads((peer / "pyproject.toml").read_text())
    assert theirs["tool"]["flwr"]["app"]["components"].pop("serverapp") == "hypergpu_fl.bench.fedavg_app:app"
    ours["tool"]["flwr"]["app"]["components"].pop("serverapp")
    assert theirs == ours
    assert (peer / "hypergpu_fl" / "bench" / "fedavg_app.py").is_file()
