"""Runs of the real server, whole, resumed and killed: their logs are folded again, and forgeries are named."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hypergpu_fl.cli import invoke

TRAIN = """
import sys
from pathlib import Path
from hypergpu_fl.bench.in_process import InProcessGrid
from hypergpu_fl.config import Config, to_run_config
from hypergpu_fl.node import client_app
from hypergpu_fl.server import server_app

folder, rounds, resume = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "resume"
config = Config.model_validate(
    {
        "training": {"num_nodes": 6, "rounds": rounds, "seed": 3},
        "network": {"policy": "network_aware", "mode": "async", "cohort": 4, "profile": "flaky"},
        "blockchain": {"enabled": False},
        "system": {"run_name": "run", "resume": resume, "device": "cpu"},
    }
)
folder.mkdir(parents=True, exist_ok=True)
server_app.run(config, InProcessGrid(client_app.app, 6, to_run_config(config), state_dir=folder / "nodes"), folder)
"""


def train(folder: Path, rounds: int, *, resume: bool = False, kill_after: int = 0) -> None:
    """Train in a process of its own; kill it when its log has so many lines."""
    arguments = [sys.executable, "-c", TRAIN, str(folder), str(rounds), "resume" if resume else "fresh"]
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        while kill_after and process.poll() is None:
            log = folder / "events.jsonl"
            if log.exists() and log.read_bytes().count(b"\n") >= kill_after:
                os.kill(process.pid, signal.SIGKILL)
                break
            time.sleep(0.01)
        error = process.communicate()[1].decode()
    assert process.returncode == (-signal.SIGKILL if kill_after else 0), error


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    train(root / "whole", 4)
    return root


def replayed(root: Path, run: str, *arguments: str) -> int:
    return invoke(["replay", run, "--runs", str(root), *arguments])


def test_every_command_of_a_run_follows_from_its_events(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replayed(runs, "whole", "--format", "json") == 0
    assert '"rounds": 4' in capsys.readouterr().out
    assert replayed(runs, "whole", "--upto", "2", "--format", "json") == 0
    assert '"rounds": 2' in capsys.readouterr().out


def test_a_number_altered_by_hand_names_the_first_command_that_differs(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(runs / "whole", tmp_path / "forged")
    log = tmp_path / "forged" / "events.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    where = next(i for i, line in enumerate(lines) if '"kind":"joined"' in line)
    lines[where] = lines[where].replace('"examples":', '"examples":9')
    log.write_text("".join(lines))
    assert replayed(tmp_path, "forged") == 1
    assert "is recorded as" in capsys.readouterr().err


def test_an_alteration_that_changes_no_command_is_found_by_its_hash(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(runs / "whole", tmp_path / "forged")
    log = tmp_path / "forged" / "events.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    assert '"kind":"evaluated"' in lines[-1]
    lines[-1] = lines[-1].replace('"at_s":', '"at_s":1')
    log.write_text("".join(lines))
    assert replayed(tmp_path, "forged") == 1
    assert f"line {len(lines) - 1}: its hash does not fit" in capsys.readouterr().err


def test_a_run_that_was_killed_and_resumed_is_one_story(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tmp_path / "killed", 30, kill_after=60)
    assert replayed(tmp_path, "killed") == 0  # whatever was written until then
    train(tmp_path / "killed", 6, resume=True)
    capsys.readouterr()
    assert replayed(tmp_path, "killed", "--format", "json") == 0
    out = capsys.readouterr().out
    assert '"cut_off_bytes": 0' in out
    assert b'"kind":"resumed"' in (tmp_path / "killed" / "events.jsonl").read_bytes()
