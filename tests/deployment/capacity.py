"""What a deployment takes, outside CI: ``python -m tests.deployment.capacity [MODEL ...]`` as root.

A server and three nodes by the compose files of their archives train three rounds; each container's memory is looked at
twice a second, its folders at the end of each look. Prints the highest figures, in megabytes.
"""

from __future__ import annotations

import json
import shutil
import sys
import threading
from collections import defaultdict
from pathlib import Path

import psutil

from hypergpu_fl.chain.anvil import find_anvil
from tests.deployment.forms import Compose, brought_up
from tests.deployment.machine import Machine, machine
from tests.deployment.stack import REPOSITORY

LOOK_S = 0.5
SHOWN = ("superlink", "superexec", "proxy", "node-0-node")


def main(models: list[str]) -> None:
    """Measure each model in turn, on one deployment."""
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/bin")
    with machine(Path(nginx) if nginx else None, find_anvil([REPOSITORY / "contracts"])) as here:
        project = brought_up(here)
        for model in models:
            print(json.dumps({"model": model} | measured(here, project, model)), flush=True)


def measured(here: Machine, project: Compose, model: str) -> dict[str, object]:
    """Highest memory and disk of a run, and the traffic of its report."""
    highest: defaultdict[str, float] = defaultdict(float)
    ended, node = threading.Event(), here.folder / "first-host" / "first" / "node-0" / "state"

    def look() -> None:
        while not ended.wait(LOOK_S):
            for name in SHOWN:
                highest[f"{name} memory"] = max(highest[f"{name} memory"], memory_mb(here, name))
            for name in ("superlink", "state"):
                highest[f"{name} disk"] = max(highest[f"{name} disk"], disk_mb(project.folder / name))
            highest["node disk"] = max(highest["node disk"], disk_mb(node))

    watcher = threading.Thread(target=look)
    watcher.start()
    settings = ["training.num_nodes=3", "training.rounds=3", "network.cohort=3", f"training.model_architecture={model}"]
    words = [word for setting in settings for word in ("--set", setting)]
    try:
        project.run(["operator", "run", "--superlink", "deployed", "--name", model, *words])
    finally:
        ended.set()
        watcher.join()
    report = json.loads((project.folder / "state" / "runs" / model / "report.json").read_text())
    traffic = {name: round(report[name] / 1e6, 2) for name in ("bytes_up", "bytes_down")}
    return {name: round(value) for name, value in highest.items()} | traffic


def memory_mb(here: Machine, name: str) -> float:
    """Memory of all processes of a container; what some share counts once."""
    total, first = 0, here.running[name].first
    if first is None:
        return 0.0
    for one in [first, *first.children(recursive=True)]:
        try:
            total += one.memory_full_info().pss
        except psutil.Error:
            continue
    return total / 1e6


def disk_mb(folder: Path) -> float:
    """Size of all files below."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_size
        except OSError:
            continue
    return total / 1e6


if __name__ == "__main__":
    main(sys.argv[1:] or ["mlp", "resnet18"])
