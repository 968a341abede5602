"""The deployed race, outside CI: ``python -m tests.deployment.race [--json OUT]`` as root, from the repository.

Four nodes at 10, 20, 50 and 100 Mbit/s with round trips of 20 to 150 ms; ResNet-18 (45 MB) on the digits, whose labels
are dealt with Dirichlet(0.3); ``--set training.partitioner=iid`` deals them alike, which takes half the rounds.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import psutil

from hypergpu_fl.cli import invoke
from tests.deployment.relay import Shape
from tests.deployment.stack import CONNECTION, Stack, namespaces_work

LINKS = [Shape(10e6, 25e6, 0.15), Shape(20e6, 50e6, 0.08), Shape(50e6, 100e6, 0.04), Shape(100e6, 100e6, 0.02)]
SETTINGS = {
    "training.model_architecture": "resnet18",
    "training.num_nodes": len(LINKS),
    "training.rounds": 40,
    "training.partitioner": "dirichlet",  # as in the simulations: nodes' labels differ
    "training.alpha": 0.3,
    "training.learning_rate": 0.02,
    "training.momentum": 0.9,
    "training.target_accuracy": 0.9,
    "network.enable_simulation": "false",
    "network.cohort": len(LINKS),
}


def main(arguments: list[str]) -> int:
    """Bring the nodes up, race, show what each node sent last, take them down."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # else nodes and namespaces would stay
    with (
        tempfile.TemporaryDirectory(prefix="race-") as folder,
        Stack(Path(folder), LINKS, namespaces=namespaces_work()) as stack,
    ):
        stack.start_superlink()
        stack.register()
        for index in range(len(LINKS)):
            stack.start_node(index)
        settle()
        os.environ.update(stack.environ)
        settings = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
        code = invoke(["bench", "deployment", "--superlink", CONNECTION, *settings, *arguments])
        for name in ("hypergpu", "fedavg"):
            log = stack.runs / f"bench-{name}" / "run.log"
            if log.is_file():
                sys.stderr.writelines(line for line in log.read_text().splitlines(True) if "accuracy" in line)
        invoke(["nodes", "bench-hypergpu", "--runs", str(stack.runs), "--format", "json"])
        return code


def settle() -> None:
    """Wait until the nodes have started, a minute at most: whoever races first would pay for it."""
    until_s = time.monotonic() + 60
    while psutil.cpu_percent(2.0) > 25 and time.monotonic() < until_s:
        pass


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
