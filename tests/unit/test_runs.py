"""Folders of runs and the link to the newest."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hypergpu_fl.cli.place import folder_of, place_of
from hypergpu_fl.codec.feedback.disk import NodeFolder
from hypergpu_fl.errors import ConfigError, RunNotFound
from hypergpu_fl.files import private_folder
from hypergpu_fl.runs import SUBMITTED, find_run, open_run_folder, resume_command, run_names


def test_latest_is_the_run_opened_last_and_survives_moving_the_root(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    for name in ("a", "b", "a"):
        open_run_folder(root, name)
        assert find_run(root) == (root / name).resolve()
    assert run_names(root) == ["a", "b"]
    moved = root.rename(tmp_path / "elsewhere")
    assert find_run(moved, "latest") == moved / "a"


def test_a_run_without_a_name_gets_the_first_free_one(tmp_path: Path) -> None:
    assert [open_run_folder(tmp_path, "").name for _ in range(3)] == ["run-1", "run-2", "run-3"]
    (tmp_path / "run-2").rmdir()
    assert open_run_folder(tmp_path, "").name == "run-2"
    (tmp_path / "demo-1").write_text("a file, no run")
    assert open_run_folder(tmp_path, "", stem="demo").name == "demo-2"


@pytest.mark.parametrize("name", ["../x", "/etc", "latest", ".x", "a\nb"])
def test_a_name_that_leaves_the_root_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError):
        open_run_folder(tmp_path, name)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(RunNotFound, match="no run under"):
        find_run(tmp_path / "none")
    open_run_folder(tmp_path, "demo")
    with pytest.raises(RunNotFound) as near:
        find_run(tmp_path, "dmeo")
    assert near.value.remedy == "did you mean 'demo'?"
    with pytest.raises(RunNotFound) as far:
        find_run(tmp_path, "../demo")
    assert "demo" in far.value.remedy
    with pytest.raises(RunNotFound):
        find_run(tmp_path, "..")


def test_what_a_run_and_a_node_keep_is_closed_to_other_users(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        store = NodeFolder(tmp_path / "state", "1", "0", bytes(32), 1 << 20)
        store.write("view", np.zeros(4, np.float32), 1)
        folders = [open_run_folder(tmp_path / "runs", "a"), private_folder(tmp_path / "b" / "c"), store.path]
    finally:
        os.umask(before)
    assert [folder.stat().st_mode & 0o777 for folder in folders] == [0o700] * 3


def test_names_that_are_chosen_at_once_are_never_the_same(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from hypergpu_fl.cli.place import folder_of, place_of
from hypergpu_fl.runs import open_run_folder
sys.stdin.readline()
print(*(open_run_folder(Path(sys.argv[1]), "", stem="demo").name for _ in range(20)))
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    children = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    names = [name for child in children for name in child.communicate()[0].split()]
    assert sorted(names) == sorted(f"demo-{number}" for number in range(1, 81))
    assert find_run(tmp_path).name in names


def test_a_run_that_was_sent_to_a_superlink_is_not_said_to_have_no_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPERGPU_RUNS", str(tmp_path))
    folder = open_run_folder(tmp_path, "far")
    assert place_of("far", tmp_path) == folder  # one of here that has just begun
    assert resume_command(folder) == "hypergpu run --resume far"
    (folder / SUBMITTED).write_text('{"run_id": "12", "connection": "deployed"}')
    with pytest.raises(RunNotFound, match="was sent to the SuperLink 'deployed'") as refused:
        place_of("latest", tmp_path)
    assert "--runs" in refused.value.remedy
    assert resume_command(folder) == "hypergpu run --superlink deployed --resume far"
    (folder / "run.db").touch()  # the SuperLink keeps its runs in the same place
    assert place_of("far", tmp_path) == folder
    (folder / SUBMITTED).write_text("torn")
    assert resume_command(folder) == "hypergpu run --resume far"


def test_the_way_on_can_be_typed_as_it_is_told_wherever_the_run_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYPERGPU_RUNS", raising=False)
    for root in ("runs", "another place"):
        folder = open_run_folder(tmp_path / root, "demo")
        (folder / "config.json").write_text("{}")
        run = shlex.split(resume_command(folder))[-1]
        assert folder_of(run, None) == folder
    assert resume_command(tmp_path / "runs" / "demo") == "hypergpu run --resume demo"
