"""Time to a target accuracy through a real SuperLink: ours against Flower's FedAvg on the same nodes."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from hypergpu_fl.config import Config

PEER: Final = ("hypergpu_fl.server.server_app:app", "hypergpu_fl.bench.fedavg_app:app")


def run_deployment(
    config: Config, *, app: Path, runs: Path, train: Callable[[Config, Path], None]
) -> list[dict[str, Any]]:
    """Train twice on the same nodes, and measure when each side reached ``training.target_accuracy``.

    Rows: ``strategy, nodes, model, target, time_to_target_s`` (None if never), ``rounds, seconds_a_round, accuracy,
    bytes_up, bytes_down``. Seconds run from the moment all nodes were there.

    Parameters
    ----------
    config : Config
        Configuration of both runs, except for their names.
    app : Path
        Folder of the Flower app.
    runs : Path
        Root of the runs, which must be shared with the ServerApp's machine.
    train : callable
        Runs an app to completion with a configuration; raises if it does not complete.
    """
    rows = []
    with tempfile.TemporaryDirectory(prefix="hypergpu-bench-") as scratch:
        for strategy, folder in (("hypergpu", app), ("fedavg", peer_app(app, Path(scratch) / "peer"))):
            name = f"bench-{strategy}"
            shutil.rmtree(runs / name, ignore_errors=True)
            train(config.model_copy(update={"system": config.system.model_copy(update={"run_name": name})}), folder)
            rows.append(_row(strategy, config, json.loads((runs / name / "report.json").read_text())))
    return rows


def _row(strategy: str, config: Config, report: Mapping[str, Any]) -> dict[str, Any]:
    history, target = report["history"], config.training.target_accuracy
    reached = next((e for e in history if e["accuracy"] is not None and e["accuracy"] >= target), None)
    last = reached or history[-1]
    summed = strategy != "fedavg"  # our history counts bytes of each round, the peer's counts from the start
    counted = [e for e in history if e["round"] <= last["round"]]
    return {
        "strategy": strategy,
        "nodes": config.training.num_nodes,
        "model": config.training.model_architecture,
        "target": target,
        "time_to_target_s": reached["seconds"] if reached else None,
        "rounds": last["round"],
        "seconds_a_round": last["seconds"] / last["round"],
        "accuracy": last["accuracy"],
        **{key: sum(e[key] for e in counted) if summed else last[key] for key in ("bytes_up", "bytes_down")},
    }


def peer_app(source: Path, folder: Path) -> Path:
    """A copy of the app with the peer's ServerApp."""
    for part in ("hypergpu_fl", "strategies"):
        shutil.copytree(source / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("LICENSE", "README.md"):
        shutil.copy(source / part, folder / part)
    text = (source / "pyproject.toml").read_text(encoding="utf-8")
    (folder / "pyproject.toml").write_text(text.replace(*PEER), encoding="utf-8")
    return folder
