"""Runs of the real server, whole, resumed and killed: their logs are folded again, and forgeries are named."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hypergpu_fl.cli import invoke
from strategies.failure import root_cause
from strategies.round.replay import replay as fold

TRAIN = """
import sys
from pathlib import Path
from hypergpu_fl.bench.in_process import InProcessGrid
from hypergpu_fl.config import Config, to_run_config
from hypergpu_fl.node import client_app
from hypergpu_fl.server import server_app

folder, rounds, resume = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "resume"
policy, mode, profile, seed = sys.argv[4:]
config = Config.model_validate(
    {
        "training": {"num_nodes": 6, "rounds": rounds, "seed": int(seed)},
        "network": {"policy": policy, "mode": mode, "cohort": 4, "profile": profile},
        "blockchain": {"enabled": False},
        "system": {"run_name": "run", "resume": resume, "device": "cpu"},
    }
)
folder.mkdir(parents=True, exist_ok=True)
server_app.run(config, InProcessGrid(client_app.app, 6, to_run_config(config), state_dir=folder / "nodes"), folder)
"""


PROFILES = (("broadband", 0), ("mobile", 1), ("flaky", 2))
Kind = tuple[str, str, str, int]  # policy, mode, profile of the links, seed
FLAKY: Kind = ("network_aware", "async", "flaky", 3)
WHOLE: list[Kind] = [
    *(("network_aware", mode, profile, seed) for mode in ("sync", "async") for profile, seed in PROFILES),
    *((policy, mode, "mobile", 1) for policy in ("random", "oort", "fedcs") for mode in ("sync", "async")),
]
KILLED: list[tuple[Kind, int]] = [
    *((("network_aware", mode, "flaky", 4), lines) for mode in ("sync", "async") for lines in (30, 55)),
    *(((policy, "async", "mobile", 5), 45) for policy in ("random", "tifl", "pyramid")),
]


def train(folder: Path, rounds: int, *, resume: bool = False, kill_after: int = 0, kind: Kind = FLAKY) -> None:
    """Train in a process of its own; kill it when its log has so many lines."""
    arguments = [sys.executable, "-c", TRAIN, str(folder), str(rounds), "resume" if resume else "fresh"]
    arguments += map(str, kind)
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


def forged(runs: Path, root: Path, forge: Callable[[list[bytes]], list[bytes]]) -> list[bytes]:
    """Lay the whole run with a forged log into ``root``; the forged lines."""
    shutil.copytree(runs / "whole", root / "forged")
    log = root / "forged" / "events.jsonl"
    lines = forge(log.read_bytes().splitlines(keepends=True))
    log.write_bytes(b"".join(lines))
    return lines


def more_examples(lines: list[bytes]) -> list[bytes]:
    """The log with a node that joined with another number of examples."""
    where = next(i for i, line in enumerate(lines) if b'"kind":"joined"' in line)
    return [*lines[:where], lines[where].replace(b'"examples":', b'"examples":9'), *lines[where + 1 :]]


def ended_later(lines: list[bytes]) -> list[bytes]:
    """The log with its last event at another time, from which nothing follows."""
    assert b'"kind":"evaluated"' in lines[-1]
    return [*lines[:-1], lines[-1].replace(b'"at_s":', b'"at_s":1')]


def test_a_number_altered_by_hand_names_the_first_command_that_differs(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forged(runs, tmp_path, more_examples)
    assert replayed(tmp_path, "forged") == 1
    assert "is recorded as" in capsys.readouterr().err


def test_an_alteration_that_changes_no_command_is_found_by_its_hash(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = forged(runs, tmp_path, ended_later)
    assert replayed(tmp_path, "forged") == 1
    assert f"line {len(lines) - 1}: its hash does not fit" in capsys.readouterr().err


def rechained(lines: list[bytes]) -> list[bytes]:
    """The lines numbered and hashed anew, as a forger who knows the format does it."""
    made, before = [], ""
    for number, line in enumerate(lines):
        body = b'{"n":%d,%b' % (number, line.split(b",", 1)[1].rpartition(b',"hash":"')[0])
        before = hashlib.sha256(before.encode() + body).hexdigest()
        made.append(b'%b,"hash":"%b"}\n' % (body, before.encode()))
    return made


def without_end(lines: list[bytes]) -> list[bytes]:
    """The log up to where its last round is due."""
    return lines[: max(i for i, line in enumerate(lines) if b'"kind":"round due"' in line)]


def at_another_time(lines: list[bytes]) -> list[bytes]:
    """The log with one measurement at another time, from which nothing follows."""
    where = [i for i, line in enumerate(lines) if b'"kind":"evaluated"' in line][-2]
    return rechained([*lines[:where], lines[where].replace(b'"at_s":', b'"at_s":1'), *lines[where + 1 :]])


@pytest.mark.parametrize("forge", [without_end, at_another_time])
def test_a_log_that_folds_but_is_not_what_the_books_seal_is_refused(
    forge: Callable[[list[bytes]], list[bytes]], runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = fold(forged(runs, tmp_path, forge))
    assert (found.difference, found.broken) == (None, None)
    assert replayed(tmp_path, "forged") == 1
    assert re.search(r"round \d: the hash that it seals is no line's of the log", capsys.readouterr().err)
    (tmp_path / "forged" / "run.db").write_bytes(b"")  # emptied, which switches no check off
    assert replayed(tmp_path, "forged") == 1
    assert re.search(r"round \d: the hash that it seals is no line's of the log", capsys.readouterr().err)
    (tmp_path / "forged" / "run.db").unlink()  # a folder that was sent holds the exported books alone
    assert replayed(tmp_path, "forged") == 1
    (tmp_path / "forged" / "ledger.json").unlink()
    capsys.readouterr()
    assert replayed(tmp_path, "forged") == 0
    assert "there are no books to compare its log with" in capsys.readouterr().out


def test_a_folder_is_replayed_wherever_it_lies_and_an_empty_log_is_none(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(runs / "whole", tmp_path / "copy")
    assert invoke(["replay", f"{tmp_path}/copy", "--format", "json"]) == 0
    assert '"sealed": 4' in capsys.readouterr().out
    (tmp_path / "copy" / "events.jsonl").write_bytes(b"")
    assert invoke(["replay", f"{tmp_path}/copy"]) == 1
    assert "holds no whole line" in capsys.readouterr().err
    (tmp_path / "copy" / "events.jsonl").unlink()
    assert invoke(["replay", f"{tmp_path}/copy"]) == 2
    assert "copy has no events.jsonl" in capsys.readouterr().err


def test_a_nodes_story_is_told_up_to_a_round(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replayed(runs, "whole", "--node", "node-3", "--upto", "2", "--format", "json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["node"][0]["what"].startswith("joined, with ")
    assert {moment["round"] for moment in row["node"]} <= {0, 1, 2}
    assert replayed(runs, "whole", "--node", "node-3") == 0
    shown = capsys.readouterr().out
    assert "node-3, seconds on the run's clock" in shown and "given order" in shown
    assert replayed(runs, "whole", "--node", "node3") == 2
    said = capsys.readouterr().err
    assert "no node 'node3' has joined this run" in said and "did you mean 'node-3'?" in said


def test_books_that_cannot_be_read_are_named(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(runs / "whole", tmp_path / "torn")
    (tmp_path / "torn" / "run.db").write_bytes(b"no database at all" * 1000)
    assert replayed(tmp_path, "torn") == 1
    said = capsys.readouterr().err
    assert "run.db cannot be read: file is not a database" in said and "unexpected" not in said


def test_a_run_that_was_killed_and_resumed_is_one_story(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tmp_path / "killed", 30, kill_after=60)
    assert replayed(tmp_path, "killed") == 0  # whatever was written until then
    train(tmp_path / "killed", 6, resume=True)
    capsys.readouterr()
    assert replayed(tmp_path, "killed", "--format", "json") == 0
    out = capsys.readouterr().out
    assert '"cut_off_bytes": 0' in out
    assert b'"kind":"resumed"' in (tmp_path / "killed" / "events.jsonl").read_bytes()


SMALL_DISK = """
mount -t tmpfs -o size="$1" tmpfs "$2" && shift 2 || exit 77  # no run has this code
"$@"; ended=$?
cp "$4/events.jsonl" "$4/kept.jsonl"; exit $ended
"""


@pytest.mark.slow
@pytest.mark.usefixtures("as_root")
def test_a_run_whose_log_finds_its_disk_full_says_so_and_goes_on_once_there_is_room(tmp_path: Path) -> None:
    small, folder = tmp_path / "small", tmp_path / "full"
    small.mkdir()
    folder.mkdir()
    (folder / "events.jsonl").symlink_to(small / "events.jsonl")
    run = [sys.executable, "-c", TRAIN, str(folder), "30", "fresh", *map(str, FLAKY)]
    command = ["unshare", "-m", "sh", "-c", SMALL_DISK, "sh", "32k", str(small), *run]
    said = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert said.returncode == 1, said.stderr
    cause, remedy = root_cause(said.stderr) or ("", "")
    assert cause.startswith("the event log cannot be written: No space left on device") and "events.jsonl" in cause
    assert remedy.startswith("make room there")
    (folder / "kept.jsonl").replace(folder / "events.jsonl")
    rounds = fold((folder / "events.jsonl").read_bytes().splitlines(keepends=True)).rounds
    assert rounds >= 1
    train(folder, rounds + 2, resume=True)
    assert replayed(tmp_path, "full") == 0
    assert invoke(["ledger", "verify", str(folder), "--format", "json"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", WHOLE, ids=str)
def test_whatever_the_policy_and_the_links_a_run_folds_to_itself(kind: Kind, tmp_path: Path) -> None:
    train(tmp_path / "whole", 5, kind=kind)
    assert replayed(tmp_path, "whole") == 0
    assert invoke(["ledger", "verify", f"{tmp_path}/whole", "--format", "json"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "lines"), KILLED, ids=str)
def test_whenever_a_run_was_killed_what_follows_folds_with_it(kind: Kind, lines: int, tmp_path: Path) -> None:
    train(tmp_path / "killed", 30, kill_after=lines, kind=kind)
    train(tmp_path / "killed", 5, resume=True, kind=kind)
    assert replayed(tmp_path, "killed") == 0
    assert invoke(["ledger", "verify", f"{tmp_path}/killed", "--format", "json"]) == 0
