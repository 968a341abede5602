"""Child processes of ours, on real processes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

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
