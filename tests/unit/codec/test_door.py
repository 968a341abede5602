"""The package's one door."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hypergpu_fl import codec


def test_everything_promised_can_be_had() -> None:
    for name in codec.__all__:
        assert getattr(codec, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        codec.__getattr__("nothing")


def test_naming_levels_loads_neither_compiler_nor_torch() -> None:
    script = (
        "import sys; from hypergpu_fl.codec import LEVELS, level; print(sorted({'numba', 'torch'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
