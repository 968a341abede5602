"""What a user may look at but not change is told as such: nothing is called missing, and nothing older is taken."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hypergpu_fl.cli import invoke
from hypergpu_fl.ledger import database
from hypergpu_fl.server.checkpoint import Checkpoint, load, load_model, save, state_of
from strategies import lineup
from strategies.event_log import EventLog
from strategies.model.layout import Layout
from strategies.planning import Compression
from strategies.settings import Settings

NOBODY = 65534


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may enter."""
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        yield Path(made)


@contextlib.contextmanager
def closed(place: Path, mode: int) -> Iterator[None]:
    """Leave a file or folder these rights, and be a user whom they bind."""
    before, user = place.stat().st_mode, os.geteuid()
    place.chmod(mode)
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)
        place.chmod(before)


def test_a_checkpoint_that_may_not_be_read_is_neither_missing_nor_torn(folder: Path) -> None:
    layout = Layout.of({"weight": np.zeros(3, np.float32)})
    for version in (1, 2):
        save(folder, Checkpoint(version, layout, {"average": np.full(3, version, np.float32)}, {"round": version}))
    for file in folder.iterdir():
        file.chmod(0o644)
    newest = folder / "00000002.json"
    (vectors,) = {file for file in folder.glob("*.safetensors") if file.stem in newest.read_text()}
    for place in (newest, vectors):
        with closed(place, 0), pytest.raises(PermissionError, match=place.name):
            load_model(folder)
        with closed(place, 0), pytest.raises(PermissionError, match=place.name):
            load(folder)
    with closed(newest, 0), pytest.raises(PermissionError, match=newest.name):
        state_of(folder)


def test_books_that_may_not_be_written_beside_are_told_so_to_who_replays(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = lineup.rules("random", Settings(1), model_values=1, levels=[Compression("raw", 1.0)])
    EventLog(folder / "events.jsonl", rules).close()
    database.metadata.create_all(engine := database.connect(folder / "run.db"))
    engine.dispose()
    with sqlite3.connect(folder / "run.db") as books:
        assert books.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    books.close()
    assert invoke(["replay", str(folder)]) == 0  # who may write; all that it imports is there from now on
    for left in folder.glob("run.db-*"):
        left.unlink()
    with closed(folder, 0o555):
        assert invoke(["replay", str(folder)]) == 1
    assert "SQLite writes into its folder even to read" in capsys.readouterr().err
