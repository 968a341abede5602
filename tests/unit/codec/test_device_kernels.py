"""The GPU kernels' arithmetic, under Triton's interpreter: the tests are those of `interpreted_kernels`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.usefixtures("triton")
def test_interpreted_kernels_give_the_same_bytes() -> None:
    tests = Path(__file__).with_name("interpreted_kernels.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stdout[-5000:] + ran.stderr[-2000:]
