"""The main job: one command trains over simulated links and seals every round; nothing stands in for anything."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROUNDS = 3
SETTINGS = (f"training.rounds={ROUNDS}", "training.num_nodes=4", "training.seed=7", "network.cohort=3")


def hypergpu(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("hypergpu"), *arguments],
        env={**os.environ, "HYPERGPU_RUNS": str(root)},
        capture_output=True,
        text=True,
        timeout=900,  # the slow task's, whose work is tried here and at each node before it counts
        check=False,
    )


def train(root: Path, *arguments: str, settings: tuple[str, ...] = SETTINGS) -> dict[str, Any]:
    done = hypergpu(root, "run", *arguments, *(f"--set={setting}" for setting in settings))
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, Any] = json.loads((root / "latest" / "report.json").read_text())
    return report


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("runs")
    train(root, "--name", "first")
    yield root


def test_every_round_is_trained_evaluated_sealed_and_final(root: Path) -> None:
    report = json.loads((root / "first" / "report.json").read_text())
    assert [entry["round"] for entry in report["history"]] == list(range(1, ROUNDS + 1))
    assert report["accuracy"] > 0.3  # chance is 0.1
    assert report["chain"]["commits"] == report["chain"]["finalized"] == ROUNDS
    assert len({entry["tx"] for entry in report["history"]}) == ROUNDS
    for entry in report["history"]:
        assert entry["status"] == "FINALIZED" and len(entry["tx"]) == len(entry["root"]) == 66
        assert entry["arrived"] > 0 and entry["bytes_up"] > 0 and entry["bytes_down"] > 0
    assert not (root / ".nodes").exists() or not any((root / ".nodes").iterdir())
    assert not (root / "first" / ".nodes").exists()


def test_the_ledger_verifies_from_its_file_alone(root: Path) -> None:
    done = hypergpu(root, "ledger", "verify", "latest")
    assert done.returncode == 0, done.stderr
    assert f"{ROUNDS} rounds" in done.stdout


@pytest.mark.parametrize("part", ["leaf", "root", "weight", "signature"])
def test_one_changed_byte_of_the_ledger_names_its_round(root: Path, tmp_path: Path, part: str) -> None:
    bundle = json.loads((root / "first" / "ledger.json").read_text())
    second = bundle["rounds"][1]
    owner = second if part == "root" else second["contributions"][0]
    value = owner[part]
    owner[part] = value ^ 1 if isinstance(value, int) else value[:20] + ("0" if value[20] != "0" else "1") + value[21:]
    (tmp_path / "forged").mkdir()
    (tmp_path / "forged" / "ledger.json").write_text(json.dumps(bundle))
    done = hypergpu(tmp_path, "ledger", "verify", "forged")
    assert done.returncode != 0
    assert "round 2" in done.stderr


def without_the_session(document: Any) -> Any:
    """What is left when all is taken out that rests on the coordinator's key, which is made for each run."""
    mine = {"chain", "root", "rewards_root", "tx", "head", "leaf", "proof", "signature", "session", "seal", "commit"}
    mine |= {"log_head"}  # the log begins with the session
    if isinstance(document, dict):
        return {k: without_the_session(v) for k, v in document.items() if k not in mine | {"transactions"}}
    return [without_the_session(entry) for entry in document] if isinstance(document, list) else document


def test_one_seed_gives_one_report_and_one_ledger_but_for_the_coordinators_key(root: Path, tmp_path: Path) -> None:
    for cache in (".flower", ".cache"):  # what Flower unpacked once needs no second compilation
        (tmp_path / cache).symlink_to(root / cache)
    again = train(tmp_path, "--name", "first")
    assert without_the_session(again) == without_the_session(json.loads((root / "first" / "report.json").read_text()))
    mine, other = (json.loads((r / "first" / "ledger.json").read_text()) for r in (tmp_path, root))
    assert without_the_session(mine) == without_the_session(other) and len(mine["rounds"]) == ROUNDS
    assert mine["session"]["coordinator"] != other["session"]["coordinator"]


def test_a_resumed_run_goes_on_from_its_last_booked_round(root: Path) -> None:
    before = json.loads((root / "first" / "report.json").read_text())
    report = train(root, "--resume", "first", settings=("training.rounds=5",))
    assert [entry["round"] for entry in report["history"]] == [1, 2, 3, 4, 5]
    assert [e["root"] for e in report["history"][:3]] == [e["root"] for e in before["history"]]
    assert report["history"][3]["seconds"] > before["seconds"]
    done = hypergpu(root, "ledger", "verify", "first")
    assert done.returncode == 0 and "5 rounds" in done.stdout, done.stdout + done.stderr


SLOW_TASK = """
import time
from pathlib import Path

from hypergpu_fl.config import System, runs_root
from hypergpu_fl.task.image import ImageTask


class Slow(ImageTask):
    def train(self, *arguments, **options):
        result = super().train(*arguments, **options)
        time.sleep({seconds})
        return result


def task(training):
    return Slow(training, runs_root(System()) / ".cache")
"""


@pytest.mark.slow
def test_a_simulated_client_that_works_75_seconds_of_wall_time_in_a_round_counts(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow_task.py").write_text(SLOW_TASK.format(seconds=75))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    settings = ("training.task=slow_task:task", "training.rounds=1", "training.num_nodes=2", "network.cohort=2")
    (entry,) = train(root, "--name", "slow", settings=settings)["history"]
    assert entry["arrived"] >= 1 and entry["rejected"] == 0
    assert entry["seconds"] < 60  # what the links and simulated processors take


def test_a_run_of_which_nothing_counts_fails_and_says_why(root: Path) -> None:
    done = hypergpu(
        root, "run", "--name", "exploded", "--set=training.learning_rate=1e6", *(f"--set={s}" for s in SETTINGS)
    )
    assert done.returncode == 1
    cause, remedy = done.stderr.splitlines()[-2:]
    assert cause.startswith("error: run exploded ended as finished:failed: nothing was trained: no update counted, ")
    assert "the server refused" in cause and remedy.startswith("remedy: lower training.learning_rate")
    assert "values to encode hold NaN" in done.stdout
    report = json.loads((root / "exploded" / "report.json").read_text())
    assert report["status"] == "failed" and report["failure"] in cause
    assert report["chain"]["commits"] == ROUNDS  # the books say that these rounds brought nothing
