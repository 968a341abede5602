"""Child processes of ours, on real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from hypergpu_fl import guard

KEEPING = """
import sys, time
from hypergpu_fl.children import keep_running
keep_running(sys.argv[1:], given=b"told;", name="child", restart_s=0.05)
time.sleep(60)
"""
NOTING = "import sys; open(sys.argv[1], 'a').write(sys.stdin.read())"


def kept_running(until: Callable[[], bool], *program: str) -> str:
    """Keep a program running until something holds, or in vain for half a minute; what was logged."""
    keeper = subprocess.Popen([sys.executable, "-c", KEEPING, *program], stderr=subprocess.PIPE, text=True)
    give_up_s = time.monotonic() + 30
    try:
        while time.monotonic() < give_up_s and not until():
            time.sleep(0.05)
    finally:
        keeper.kill()
        _, said = keeper.communicate()
    return said


def test_a_program_that_ends_is_started_again_and_given_the_same(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    said = kept_running(
        lambda: notes.exists() and notes.read_text().count("told;") >= 3, sys.executable, "-c", NOTING, str(notes)
    )
    assert notes.read_text().startswith("told;told;told;")
    assert "the child has ended and is started again" in said


def test_a_program_that_cannot_be_started_is_not_said_to_have_ended(tmp_path: Path) -> None:
    began_s = time.monotonic()
    said = kept_running(lambda: time.monotonic() - began_s > 3.0, str(tmp_path / "gone"))
    assert "the child could not be started ([Errno 2] No such file" in said and "has ended" not in said


BLOCKING = """
import os, time
from pathlib import Path

def hang(note):
    Path(note).write_text(str(os.getpid()))
    while True:
        time.sleep(0.05)

def task(training):
    hang(os.environ["NOTE"])
"""
TRYING = """
import os
from pathlib import Path
from hypergpu_fl.cli.preflight import try_apart
from hypergpu_fl.config import Config
try_apart(Config.model_validate({"training": {"task": "blocking:task"}}), Path.cwd())
"""
APART = """
import os
import blocking
from hypergpu_fl.cli.apart import apart
if __name__ == "__main__":
    apart(blocking.hang, os.environ["NOTE"], doing="waiting")
"""
ELSEWHERE = """
import os, sys
import blocking
from hypergpu_fl import children
parent = os.getpid()
if not os.fork():
    sys.platform = "darwin"
    children.LOOK_S = 0.05
    children.end_with(parent)
    blocking.hang(os.environ["NOTE"])
os.wait()
"""
GUARDED = """
import os, signal, subprocess, sys
from pathlib import Path
from hypergpu_fl import guard
folder = Path.cwd() / "scratch"
guard.temporary_of(folder).mkdir(parents=True)
with guard.start(folder):
    code = "import os, signal, blocking; signal.signal(15, signal.SIG_IGN); blocking.hang(os.environ['NOTE'])"
    environ = {**os.environ, "TMPDIR": str(guard.temporary_of(folder))}
    subprocess.run(["setsid", sys.executable, "-c", code], env=environ)
"""


@pytest.mark.parametrize("code", [TRYING, APART, ELSEWHERE, GUARDED], ids=["trial", "apart", "elsewhere", "guarded"])
def test_a_child_ends_though_its_parent_is_killed_and_it_is_busy(tmp_path: Path, code: str) -> None:
    (tmp_path / "blocking.py").write_text(BLOCKING)
    (tmp_path / "parent.py").write_text(code)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    note = tmp_path / "note"
    environ = {**os.environ, "PYTHONPATH": path, "NOTE": str(note)}
    parent = subprocess.Popen([sys.executable, "parent.py"], cwd=tmp_path, env=environ, stderr=subprocess.PIPE)
    try:
        assert waited(lambda: note.exists() and note.read_text().isdecimal()), parent.communicate(timeout=1)
    finally:
        parent.kill()
        parent.communicate()
    child = int(note.read_text())
    assert waited(lambda: not alive(child))
    assert waited(lambda: not (tmp_path / "scratch").exists())


def test_the_guard_of_a_killed_command_spares_the_one_that_goes_on_with_its_run(tmp_path: Path) -> None:
    def begin(scratch: Path) -> subprocess.Popen[bytes]:
        environ = {**os.environ, "TMPDIR": str(guard.temporary_of(scratch))}
        return subprocess.Popen([sys.executable, "-c", "input()"], env=environ, stdin=subprocess.PIPE)

    old = guard.fresh(tmp_path)
    first = begin(old)
    watching = guard.start(old)
    new = guard.fresh(tmp_path)
    second = begin(new)
    try:
        assert waited(lambda: bool(guard.belonging_to(old) and guard.belonging_to(new)))
        watching.communicate()  # closes its standard input, as the end of the command does
        assert not guard.belonging_to(old)
        assert second.poll() is None
        assert list(tmp_path.iterdir()) == [new]
    finally:
        for each in (first, second):
            each.kill()
            each.communicate()


def waited(until: Callable[[], bool]) -> bool:
    give_up_s = time.monotonic() + 60
    while not until() and time.monotonic() < give_up_s:
        time.sleep(0.05)
    return until()


def alive(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
