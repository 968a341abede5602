"""What the configuration's door lets in, runs; what it refuses, it refuses with a remedy: edge values of every field.

A value that is let in either runs, its rounds sealed where there is a chain, or the run ends with a cause and a remedy
that no door could know before: what the machine lacks, or that training with it learns nothing.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from edge_values import edge_values
from sweep import DEMO, Outcome, loaded, outcome

EDGES = edge_values()
# What takes days, however fast the machine.
ENDLESS = (("training.epochs", 10**6), ("training.epochs", 10**6 - 1), ("training.local_steps", "999999999"))
BESIDE = {"training.rounds": {"training.target": "loss <= 1e9"}}  # a million rounds end with the first
# What a run alone can tell: of the data, of the machine, of what training makes of them.
ENDS = {
    "training.task": "there is no module",
    "training.model_architecture": "has no 'Nothing'",
    "training.dataset": "cannot be downloaded",  # on a machine that is not online
    "training.data_root": "no folder|cannot be read",
    "training.partitioner": "no node would hold class",
    "training.num_nodes": "more than the training set's 1,295 samples",
    "training.learning_rate": "nothing was trained",
    "training.weight_decay": "nothing was trained",
    "training.server_optimizer": "nothing was trained",
    "training.server_learning_rate": "nothing was trained",
    "training.target": "but the task measures",
    "network.enable_simulation": "no key to sign with",
    "network.sample_ms": "nothing was trained",
    "network.deadline_s": "nothing was trained",
    "blockchain.allow_list": "is not in blockchain.allow_list",
    "system.resume": "no finished round",
    "system.device": "device",
}
# Of combinations: what a single value tells better, what needs more than the demo, and what ends the run at once.
ALONE = (
    *("training.task", "training.num_nodes", "training.rounds", "training.dataset", "training.model_architecture"),
    *("training.data_root", "training.target", "training.target_accuracy", "training.options"),
    *("network.enable_simulation", "network.links_file", "network.rtt_file"),
    *("blockchain.enabled", "blockchain.kind", "blockchain.contract", "blockchain.keystore"),
    *("system.runs_dir", "system.run_name", "system.resume", "system.device"),
)
COMBINATIONS = 40
THROUGH_FLOWER = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Working directory of all runs, which share what is prepared of the data."""
    root = tmp_path_factory.mktemp("sweep")
    (root / "nodes").mkdir()
    before = Path.cwd()
    os.chdir(root)
    yield root
    os.chdir(before)


@pytest.mark.parametrize("path", EDGES)
def test_a_value_is_let_in_or_refused_with_a_remedy(path: str, tmp_path: Path) -> None:
    verdicts = [isinstance(loaded({path: value}, tmp_path), Outcome) for value in EDGES[path]]
    assert False in verdicts, f"no edge value of {path} is let in"
    assert True in verdicts, f"no edge value of {path} is refused"


@pytest.mark.slow
@pytest.mark.parametrize("path", EDGES)
def test_what_the_door_lets_in_runs(path: str, folder: Path) -> None:
    seen = set()
    for value in EDGES[path]:
        config = loaded({path: value, **BESIDE.get(path, {})}, folder / "runs")
        if isinstance(config, Outcome) or (path, value) in ENDLESS or config.model_dump_json() in seen:
            continue
        seen.add(config.model_dump_json())
        found = outcome(config, folder / "nodes")
        if found.how == "ended":
            assert path in ENDS and re.search(ENDS[path], found.cause) and found.remedy, (value, found)
        else:
            assert found.how == "ran", (value, found)


def combination(seed: int, runs: Path) -> dict[str, Any]:
    """Edge values of some fields or of all, each of which the door lets in alone, and all together too."""
    rng = random.Random(seed)
    while True:
        share = rng.choice((0.15, 0.3, 0.6, 1.0))
        values = {
            path: rng.choice([v for v in EDGES[path] if (path, v) not in ENDLESS])
            for path in EDGES
            if path not in ALONE and rng.random() < share
        }
        values = {path: v for path, v in values.items() if not isinstance(loaded({path: v}, runs), Outcome)}
        if not isinstance(loaded(values, runs), Outcome):
            return values


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(COMBINATIONS))
def test_no_combination_of_what_is_let_in_hangs_or_ends_without_a_remedy(seed: int, folder: Path) -> None:
    config = loaded(combination(seed, folder / "runs"), folder / "runs")
    assert not isinstance(config, Outcome)
    found = outcome(config, folder / "nodes")
    assert found.how == "ran" or (found.how == "ended" and found.cause and found.remedy), found


def some_settings(count: int, runs: Path = Path("/nowhere")) -> list[tuple[str, Any]]:
    """One value that the door lets in of each of so many fields."""
    rng = random.Random(0)
    chosen = rng.sample([path for path in EDGES if path not in ALONE and path not in ENDS], count)
    values = {path: [v for v in EDGES[path] if isinstance(v, int | float | str)] for path in chosen}
    return [
        (path, rng.choice([v for v in values[path] if not isinstance(loaded({path: v}, runs), Outcome)]))
        for path in chosen
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("path", "value"), some_settings(THROUGH_FLOWER))
def test_what_runs_here_runs_through_flower(path: str, value: Any, folder: Path) -> None:
    settings = {**DEMO, "blockchain.enabled": path.startswith("blockchain."), path: value}
    done = subprocess.run(
        [Path(sys.executable).with_name("hypergpu"), "run", "--format", "json"]
        + [f"--set={name}={text}" for name, text in settings.items()],
        env={**os.environ, "HYPERGPU_RUNS": str(folder / "flower")},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, (path, value, done.stderr[-2000:])
    assert json.loads(done.stdout)["report"]["rounds"] == 2
