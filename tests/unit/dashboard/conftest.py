"""A run that is going on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from seen_runs import SeenRun

HOSTILE = ["node-0", "<script>alert(1)</script>", "\u202eelddim \U0001f600", "node-10", "node-9"]


@pytest.fixture
def going_on(tmp_path: Path) -> Iterator[SeenRun]:
    """Five nodes, two of them with names that want to be more than text; three rounds are over."""
    run = SeenRun(tmp_path / "runs" / "demo", HOSTILE, failing=4)
    for round in range(1, 4):
        run.round(loss=1 / round, accuracy=1 - 0.5 / round)
    yield run
    run.close()


@pytest.fixture(scope="session")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("no promtool: apt-get install prometheus")
    return found
