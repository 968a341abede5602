"""A deployed run is followed over the restarts of its SuperLink and the death of its ServerApp."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hypergpu_fl.cli import deployed, invoke
from hypergpu_fl.cli.deployed import MOST_LOSSES, find, follow_log
from hypergpu_fl.cli.endings import LOST
from hypergpu_fl.cli.submission import Submission
from hypergpu_fl.config import load
from hypergpu_fl.errors import RunFailed, SuperLinkSilent, UsageError
from hypergpu_fl.runs import SUBMITTED

AWAY = {"success": False, "error-message": "Connection to the SuperLink is unavailable. Check your network connection"}
UNKNOWN = {"success": False, "error-message": "[code: 9] Run 1 not found while listing runs for x."}


def status(text: str, details: str = "") -> dict[str, object]:
    return {"success": True, "runs": [{"status": text, "status-details": details}]}


PRINTED = r"printf 'one\n\033[33mtwo\n\033[0m'"
RUNNING, DONE = status("running"), status("finished:completed")


@pytest.fixture
def flwr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Submission]:
    """A ``flwr`` whose answers to ``ls`` are given, one after the other; its log has two lines, one coloured."""

    def answering(*answers: dict[str, object]) -> Submission:
        for i, answer in enumerate(answers):
            (tmp_path / f"answer{i}").write_text(json.dumps(answer))
        program = tmp_path / "flwr"
        program.write_text(
            f"#!/bin/sh\ncd {tmp_path}\n"
            f'if [ "$1" = log ]; then {PRINTED}; exit; fi\n'
            "n=$(cat n 2>/dev/null || echo 0); echo $((n + 1)) > n; exec cat answer$n\n"
        )
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))  # flwr lies beside it
        monkeypatch.setattr(deployed, "LOOK_S", 0.01)
        return Submission("1", "deployed", os.environ)

    return answering


def test_a_folder_of_this_machine_is_said_to_be_sent_to_nobody_not_even_to_the_server_beside(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text('[training]\ndata_root = "data"\n')
    (warning,) = deployed.not_sent(load(tmp_path / "run.toml", environ={"HYPERGPU_SYSTEM__RUNS_DIR": "runs"}).origins)
    assert "data_root is not sent; server and nodes, on this machine too" in warning
    assert warning.endswith("take theirs from HYPERGPU_TRAINING__DATA_ROOT")


def test_a_superlink_that_is_away_is_waited_for_and_its_log_is_said_once(flwr: Callable[..., Submission]) -> None:
    said: list[str] = []
    _, state, _ = follow_log(flwr(RUNNING, AWAY, AWAY, RUNNING, DONE), None, said.append)
    assert state == "finished:completed"
    assert [line for line in said if line in ("one", "two")] == ["one", "two"]
    assert "\x1b" not in "".join(said), "a server in a terminal colours its log"
    assert sum("goes on asking" in line for line in said) == sum("answers again" in line for line in said) == 1


def test_a_superlink_that_is_not_up_yet_is_waited_for_only_when_that_is_asked_for(
    flwr: Callable[..., Submission], tmp_path: Path
) -> None:
    accepted = {"success": True, "run-id": "7"}
    folder, config = tmp_path / "run", load(None, {}, {}).config
    folder.mkdir()
    flwr(AWAY, AWAY, accepted, DONE)
    said: list[str] = []
    run, state, _ = deployed.deploy(config, tmp_path, "deployed", folder, os.environ, said.append, wait_s=20.0)
    assert (run.run_id, state) == ("7", "finished:completed")
    (tmp_path / "n").unlink()
    flwr(AWAY, AWAY, accepted, DONE)
    with pytest.raises(SuperLinkSilent, match="unavailable"):
        deployed.deploy(config, tmp_path, "deployed", folder, os.environ, said.append)


def test_a_superlink_that_stays_away_is_an_error_at_last(
    flwr: Callable[..., Submission], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployed, "PATIENCE_S", 0.05)
    with pytest.raises(SuperLinkSilent, match="unavailable"):
        follow_log(flwr(*[AWAY] * 200), None, lambda text: None)


def test_a_run_that_the_superlink_does_not_know_is_not_waited_for(flwr: Callable[..., Submission]) -> None:
    with pytest.raises(RunFailed, match="not found") as refusal:
        follow_log(flwr(UNKNOWN), None, lambda text: None)
    assert not isinstance(refusal.value, SuperLinkSilent)


def test_a_run_whose_server_app_died_is_submitted_again_but_not_for_ever(
    flwr: Callable[..., Submission], tmp_path: Path
) -> None:
    died = status("finished:failed", f"{LOST[0]}.")
    run = flwr(died, died, DONE)
    again: list[Submission] = []

    def submitted() -> Submission:
        again.append(run)
        return run

    assert follow_log(run, submitted, lambda text: None)[1] == "finished:completed" and len(again) == 2
    (tmp_path / "n").unlink()
    again.clear()
    assert follow_log(flwr(*[died] * 20), submitted, lambda text: None)[1] == "finished:failed"
    assert len(again) == MOST_LOSSES


FAILED_LOG = (
    "20:53:20  warning: node-1 is away\n"
    "20:53:21  error: ServerApp raised an exception\n"
    "    Traceback (most recent call last):\n"
    '      File "run_serverapp.py", line 221, in run_serverapp\n'
    "    hypergpu_fl.errors.NetworkError: 2 of 3 nodes connected within 120 s\n"
    "    remedy: start more SuperNodes, or lower training.num_nodes\n"
    "20:53:21  error: Exit Code: 201\n"
    "    \n"
    "    An unhandled exception occurred in the ServerApp.\n"
    "20:53:22  warning: the user's code says\n"
    "    more in a second line\n"
)


@pytest.mark.parametrize("debug", [False, True])
def test_a_failed_run_is_told_by_its_error_alone_unless_tracebacks_are_asked_for(
    flwr: Callable[..., Submission], tmp_path: Path, capsys: pytest.CaptureFixture[str], debug: bool
) -> None:
    folder = tmp_path / "runs" / "away"
    folder.mkdir(parents=True)
    (folder / SUBMITTED).write_text('{"run_id": "1", "connection": "deployed"}')
    flwr(status("finished:failed", "ServerApp failed"))
    (tmp_path / "log").write_text(FAILED_LOG)
    program = tmp_path / "flwr"
    program.write_text(program.read_text().replace(PRINTED, "cat log"))
    assert invoke(["attach", "away", "--runs", str(tmp_path / "runs"), *["--debug"] * debug]) == 1
    out, err = capsys.readouterr()
    assert (out == "\n".join(["run away: Flower's 1 on 'deployed'", FAILED_LOG])) is debug
    kept = "20:53:20  warning: node-1 is away", "20:53:22  warning: the user's code says", "    more in a second line"
    assert out.splitlines()[1:] == list(kept) or debug
    assert err.endswith(
        "error: run away ended as finished:failed: 2 of 3 nodes connected within 120 s\n"
        "remedy: start more SuperNodes, or lower training.num_nodes\n"
    )
    assert (folder / "flower.log").read_text() == FAILED_LOG


def test_a_run_that_failed_by_its_own_fault_is_not_submitted_again(flwr: Callable[..., Submission]) -> None:
    raised = status("finished:failed", "ServerApp failed with exception: no node is connected")
    run = flwr(raised)
    assert follow_log(run, lambda: pytest.fail("submitted again"), lambda text: None)[1] == "finished:failed"


def test_only_a_run_that_was_submitted_from_here_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(UsageError, match="was not submitted"):
        find(tmp_path / "mine", {})
    (tmp_path / "mine" / SUBMITTED).write_text('{"run_id": "12", "connection": "deployed"}')
    assert find(tmp_path / "mine", {}, connection="tunnel").connection == "tunnel"
    assert invoke(["attach", "12345", "--runs", str(tmp_path)]) == 2
    assert "--superlink" in capsys.readouterr().err


def test_every_command_tells_of_a_run_whose_books_lie_elsewhere_and_watch_names_attach(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / SUBMITTED).write_text('{"run_id": "7", "connection": "deployed"}')
    runs = ["--runs", str(tmp_path)]
    for run in ("mine", str(folder)):
        assert invoke(["watch", run, "--once", *runs]) == 0
        said = capsys.readouterr().err
        assert "was sent to the SuperLink 'deployed'" in said and f"or `hypergpu attach {folder}`" in said
        for words in (["report"], ["nodes"], ["export"], ["replay"], ["ledger", "show"], ["ledger", "verify"]):
            assert invoke([*words, run, *runs]) == 2
            said = capsys.readouterr().err
            assert f"its books do not lie in {folder}" in said and "HYPERGPU_RUNS" in said
    assert invoke(["run", "--resume", "mine", *runs]) == 2
    assert f"`hypergpu run --superlink deployed --resume {folder}`" in capsys.readouterr().err
    assert invoke(["attach", "12345", *runs]) == 2
    assert "of which SuperLink?" in capsys.readouterr().err


@pytest.fixture
def sent(tmp_path: Path) -> list[str]:
    """Words of a command about a run that was submitted from here."""
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    (folder / SUBMITTED).write_text('{"run_id": "1", "connection": "deployed"}')
    return ["attach", "mine", "--runs", str(folder.parent)]


def test_the_end_of_a_run_whose_books_lie_elsewhere_shows_the_last_rounds_figures(
    flwr: Callable[..., Submission], sent: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flwr(RUNNING, DONE)
    program = tmp_path / "flwr"
    lines = [f"round {n:>3}/2  accuracy 0.{n}00  loss 0.5000     12.4 s  3/3 arrived\\033[0m" for n in (1, 2)]
    program.write_text(program.read_text().replace(PRINTED, f"printf '{lines[0]}\\n{lines[1]}\\nover\\n'"))
    assert invoke(sent) == 0
    table = capsys.readouterr().out.partition("over")[2]
    assert "round 2/2 accuracy 0.200 loss 0.5000 12.4 s 3/3 arrived" in table and "[0m" not in table


def test_ctrl_c_while_a_run_is_followed_is_no_error(
    flwr: Callable[..., Submission], sent: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flwr(*[RUNNING] * 100)
    program = tmp_path / "flwr"
    program.write_text(program.read_text().replace(f"{PRINTED}; exit", "kill -INT $PPID; exec sleep 60"))
    began_s = time.monotonic()
    assert invoke(sent) == 130
    assert time.monotonic() - began_s < 30.0, "it waited for `flwr log` to end by itself"
    assert (
        capsys.readouterr().err
        == "no longer following mine; the run goes on, and `hypergpu attach mine` finds it again\n"
    )
