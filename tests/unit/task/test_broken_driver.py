"""A GPU whose driver torch cannot use is no absent one: what torch says of it is told."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux" or not shutil.which("cc"), reason="builds a driver for Linux")

DRIVERS = {
    "one that is too old": ("int cuDriverGetVersion(int *v) { *v = 11020; return 0; }", "is too old"),
    "one that does not start": (
        "int cuDriverGetVersion(int *v) { *v = 99020; return 0; } int cuInit(unsigned f) { return 999; }",
        "CUDA unknown error",
    ),
}


CODE = """
from hypergpu_fl.cli import doctor
from hypergpu_fl.errors import TaskError
from hypergpu_fl.task.device import resolve_device

for wanted in ("auto", "auto", "cuda"):
    print(doctor.check_device(wanted))
    try:
        print(resolve_device(wanted))
    except TaskError as error:
        print(error.cause)
"""


def told(folder: Path) -> str:
    """What a process says that looks for a GPU and finds the driver of this folder."""
    environ = {**os.environ, "LD_LIBRARY_PATH": str(folder)}
    done = subprocess.run([sys.executable, "-c", CODE], env=environ, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """Folder of an NVIDIA driver that torch cannot use, and words of torch's reason."""
    source, reason = DRIVERS[request.param]
    (tmp_path / "driver.c").write_text(source)
    library = tmp_path / "libcuda.so.1"
    subprocess.run(
        ["cc", "-shared", "-fPIC", f"-Wl,-soname,{library.name}", "-o", library, "driver.c"], cwd=tmp_path, check=True
    )
    return tmp_path, reason


def test_a_gpu_that_is_passed_over_or_missed_is_told_with_torchs_reason(driver: tuple[Path, str]) -> None:
    folder, reason = driver
    said = told(folder)
    for words in ("none that torch can use: ", "the GPU is not used: ", "finds none: "):
        assert words in said
    assert said.count("the GPU is not used: ") == 1  # although a node asks at every message
    assert said.count(reason) >= 4 and "status='missing'" in said.lower()


def test_where_there_is_no_driver_nothing_is_said_of_it(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a driver that works")
    said = told(tmp_path)
    assert "torch can use" not in said and "not used" not in said
