"""How a run's end is told, and how to go on."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hypergpu_fl.cli.endings import LOST, check_status, how_to_go_on
from hypergpu_fl.cli.submission import Submission
from hypergpu_fl.errors import RunFailed, ServerDied
from hypergpu_fl.runs import SUBMITTED

Logged = Callable[[str], Submission]


@pytest.fixture
def logged(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Logged:
    """A submission of which ``flwr log`` prints what is given."""

    def made(log: str) -> Submission:
        folder = tmp_path_factory.mktemp("flower")
        (folder / "log").write_text(log)
        program = folder / "flwr"
        program.write_text(f"#!/bin/sh\nexec cat {folder}/log\n")
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(folder / "python"))  # flwr lies beside it
        return Submission("1", "deployed", os.environ)

    return made


def test_an_interrupted_run_names_the_way_on_that_there_is(tmp_path: Path) -> None:
    assert "--replace" in how_to_go_on(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    assert "--replace" in how_to_go_on(tmp_path)
    (tmp_path / "checkpoints" / "round-1").touch()
    assert how_to_go_on(tmp_path).endswith(f"`hypergpu run --resume {tmp_path}`")


def test_an_interrupted_run_whose_rounds_lie_elsewhere_is_not_said_to_have_none(tmp_path: Path) -> None:
    (tmp_path / SUBMITTED).write_text('{"run_id": "12", "connection": "deployed"}')
    assert how_to_go_on(tmp_path) == f"go on with `hypergpu run --superlink deployed --resume {tmp_path}`"


@pytest.mark.parametrize("details", LOST)
def test_a_server_that_died_without_a_word_is_told_as_such(logged: Logged, tmp_path: Path, details: str) -> None:
    (tmp_path / "a" / "checkpoints" / "1").mkdir(parents=True)
    with pytest.raises(ServerDied, match="server's process died without a word") as died:
        check_status(logged("Starting Flower Simulation\n"), "finished:failed", details, tmp_path / "a")
    assert died.value.remedy == f"go on with `hypergpu run --resume {tmp_path / 'a'}`"
    with pytest.raises(RunFailed, match="ValueError: no column") as raised:
        check_status(
            logged("Traceback (most recent call last):\n  File x\nValueError: no column\n"),
            "finished:failed",
            details,
            tmp_path / "a",
        )
    assert not isinstance(raised.value, ServerDied)


def test_a_run_that_was_stopped_on_its_superlink_is_resumed_there(logged: Logged, tmp_path: Path) -> None:
    (tmp_path / SUBMITTED).write_text('{"run_id": "12", "connection": "deployed"}')
    with pytest.raises(RunFailed, match="was stopped") as stopped:
        check_status(logged(""), "finished:stopped", "N/A", tmp_path)
    assert stopped.value.remedy == f"go on with `hypergpu run --superlink deployed --resume {tmp_path}`"


def test_a_full_disk_is_told_as_such_even_where_the_log_finds_no_room_either(logged: Logged, tmp_path: Path) -> None:
    log = "Traceback (most recent call last):\n  File x\nOSError: [Errno 28] No space left on device\n"
    (tmp_path / "a" / "checkpoints" / "1").mkdir(parents=True)
    for name, command in (("a", "go on with `hypergpu run --resume"), ("gone", "no round was finished; start again")):
        with pytest.raises(RunFailed, match="No space left on device") as caught:
            check_status(logged(log), "finished:failed", "", tmp_path / name)
        assert caught.value.remedy.startswith(f"make room where the run's folder lies; then {command}")
    with pytest.raises(RunFailed) as caught:
        check_status(logged("nothing"), "finished:failed", "it died", tmp_path / "gone")
    assert "it died" in caught.value.cause and "could not be written either" in caught.value.remedy


def test_a_machine_too_busy_to_start_ray_is_told_as_such(logged: Logged, tmp_path: Path) -> None:
    said = "Exception: The current node timed out during startup. This could happen because some of the raylet failed"
    with pytest.raises(RunFailed) as caught:
        check_status(logged(f"Traceback (most recent call last):\n  File x\n{said}\n"), "finished:failed", "", tmp_path)
    assert "too busy to start Ray" in caught.value.remedy and "start again with `hypergpu run" in caught.value.remedy


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EDQUOT])
def test_a_folder_that_takes_no_more_is_told_as_such(logged: Logged, tmp_path: Path, number: int) -> None:
    def raised(path: Path) -> str:
        error = OSError(number, os.strerror(number), str(path))
        log = f"Traceback (most recent call last):\n  File x\n{type(error).__name__}: {error}\n"
        with pytest.raises(RunFailed) as caught:
            check_status(logged(log), "finished:failed", "", tmp_path)
        return caught.value.remedy

    assert raised(tmp_path / "blobs").endswith(
        f"; then no round was finished; start again with `hypergpu run --name {tmp_path.name} --replace`"
    )
    assert raised(Path("/data/mine")) == f"see {tmp_path / 'flower.log'}"


@pytest.mark.parametrize(
    ("report", "said"),
    [
        ({"status": "stopped", "failure": None}, "stopped by its own server, as by a KeyboardInterrupt"),
        ({"status": "failed", "failure": "no loss"}, "run a failed: no loss"),
    ],
)
def test_what_flower_calls_completed_is_not_where_the_server_says_otherwise(
    logged: Logged, tmp_path: Path, report: dict[str, str | None], said: str
) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    check_status(logged(""), "finished:completed", "", folder)
    (folder / "report.json").write_text(json.dumps({"status": "completed"}))
    check_status(logged(""), "finished:completed", "", folder)
    (folder / "report.json").write_text(json.dumps(report))
    with pytest.raises(RunFailed, match=said):
        check_status(logged(""), "finished:completed", "", folder)
