"""`hypergpu run` through the real `flwr run`: success, failure, Ctrl-C; and after each nothing is left running."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from hypergpu_fl.cli import invoke

KEY = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"
SMALL = ("--set", "training.num_nodes=2", "--set", "training.rounds=2")


def left_running(root: Path) -> list[str]:
    """Processes whose environment or command line names this test's folder, or the one that we opened for Ray."""
    marks = (str(root), f"/proc/{os.getpid()}/fd/")
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = [*process.cmdline(), *process.environ().values()]
            if process.pid != os.getpid() and any(mark in word for word in words for mark in marks):
                found.append(" ".join(process.cmdline()[:3]))
    return found


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty root in a folder whose path is too long for Ray's sockets; nothing may be written outside it."""
    folder = tmp_path / "a-folder-whose-name-makes-paths-of-unix-sockets-below-it-too-long"
    folder.mkdir()
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("HYPERGPU_COORDINATOR_KEY", KEY)
    monkeypatch.delenv("HYPERGPU_RUNS")
    yield folder / "runs"
    assert left_running(folder / "runs") == []
    assert not list(home.iterdir()), "something was written to the home folder"


def contents(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_run_that_completes_shows_its_rounds_and_leaves_its_files(
    root: Path, tiny_app: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["run", "--app", str(tiny_app), "--name", "good", "--format", "json", *SMALL]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out) == {
        "run": "good",
        "status": "completed",
        "folder": str(root / "good"),
        "report": {"rounds": 2, "accuracy": 0.5},
    }
    assert "round 1: 2 arrived\nround 2: 2 arrived\n" in err
    assert contents(root / "good") == {".lock", "config.json", "report.json", "run.log", "superlink.log"}
    assert (root / "latest").resolve() == root / "good"
    kept = json.loads((root / "good" / "config.json").read_text())
    assert (kept["training"]["num_nodes"], kept["training"]["rounds"]) == (2, 2)
    logs = "".join(path.read_text() for path in (root / "good").iterdir())
    assert KEY not in logs + out + err


def test_a_run_that_fails_exits_1_with_the_cause(root: Path, tiny_app: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert invoke(["run", "--app", str(tiny_app), "--name", "fail", *SMALL]) == 1
    err = capfd.readouterr().err
    assert err == (
        "error: run fail ended as finished:failed: ValueError: the tiny app was told to fail\n"
        f"remedy: see {root / 'fail' / 'flower.log'}\n"
    )
    assert contents(root / "fail") == {".lock", "config.json", "flower.log", "run.log", "superlink.log"}


def test_a_run_whose_server_dies_says_how_to_go_on(
    root: Path, tiny_app: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """As when the machine runs out of memory; Flower would notice a minute later."""
    assert invoke(["run", "--app", str(tiny_app), "--name", "die", *SMALL]) == 1
    assert capfd.readouterr().err == (
        "error: run die failed: its server's process died without a word: killed, as where memory runs out, or ended "
        "by the task's own code\n"
        "remedy: no round was finished; start again with `hypergpu run --name die --replace`\n"
    )
    assert contents(root / "die") == {".lock", "config.json", "run.log", "superlink.log"}


def test_a_stopped_run_ends_in_order_and_says_how_to_go_on(
    root: Path, tiny_app: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = root / "linger" / "run.log"
    seen: list[str] = []

    def stop_in_the_first_round() -> None:
        deadline_s = time.monotonic() + 120
        while not (log.exists() and "round 1" in log.read_text()) and time.monotonic() < deadline_s:
            time.sleep(0.2)
        seen.extend(left_running(root))
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # an impatient second one does not break the clean-up

    watcher = threading.Thread(target=stop_in_the_first_round, daemon=True)
    watcher.start()
    assert invoke(["run", "--app", str(tiny_app), "--name", "linger", *SMALL]) == 130
    watcher.join()
    assert len(seen) > 5, "the look for what is left does see Flower's and Ray's processes while they run"
    assert capfd.readouterr().err == (
        "error: run linger was stopped\n"
        "remedy: no round was finished; start again with `hypergpu run --name linger --replace`\n"
    )
    assert contents(root / "linger") == {".lock", "config.json", "run.log", "superlink.log"}


def test_a_run_whose_processes_nobody_can_start_fails_instead_of_waiting(
    root: Path, tiny_app: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in an environment that has only some of Flower's programs: SuperExec dies of it, the SuperLink does not."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("flwr", "flower-superlink", "flower-superexec"):
        shutil.copy(Path(sys.executable).with_name(name), programs)
    python = programs / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert invoke(["run", "--app", str(tiny_app), "--name", "lost", *SMALL]) == 1
    err = capfd.readouterr().err
    assert "error: Flower's SuperExec ended before the run: FileNotFoundError:" in err
    assert "flwr-simulation" in err
