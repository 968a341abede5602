"""A command line in the same process, in an empty folder and environment."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hypergpu_fl.cli import invoke

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def hypergpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """Call with words; returns exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("HYPERGPU_")]:
        monkeypatch.delenv(name)

    def call(*words: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = invoke(words)
        out, err = capfd.readouterr()
        return code, out, err

    yield call
