"""Child processes of ours, on real processes."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

KEEPING = """
import sys, time
from hypergpu_fl.children import keep_running
noted = "import sys; open(sys.argv[1], 'a').write(sys.stdin.read())"
keep_running([sys.executable, "-c", noted, sys.argv[1]], given=b"told;", name="child", restart_s=0.05)
time.sleep(60)
"""


def test_a_program_that_ends_is_started_again_and_given_the_same(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    keeper = subprocess.Popen([sys.executable, "-c", KEEPING, str(notes)], stderr=subprocess.PIPE, text=True)
    give_up_s = time.monotonic() + 30
    try:
        while time.monotonic() < give_up_s and not (notes.exists() and notes.read_text().count("told;") >= 3):
            time.sleep(0.05)
    finally:
        keeper.kill()
        _, said = keeper.communicate()
    assert notes.read_text().startswith("told;told;told;")
    assert "the child has ended and is started again" in said
