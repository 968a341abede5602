"""What a command's RUN argument points at: a run's name, ``latest``, a folder, or an exported file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hypergpu_fl.cli.options import root_of
from hypergpu_fl.runs import find_books

if TYPE_CHECKING:
    from hypergpu_fl.ledger.bundle import Bundle


def place_of(run: str, runs: Path | None) -> Path:
    """Folder of a run, or the path that was given instead of a name."""
    path = Path(run)
    if path.exists() and ("/" in run or path.suffix == ".json"):
        return path
    return find_books(root_of(runs), run)


def books_of(run: str, runs: Path | None) -> Bundle:
    """Return a run's live books, or the exported ones where there is no database."""
    from hypergpu_fl.settlement import load_books, load_bundle

    place = place_of(run, runs)
    return load_books(place) if place.is_dir() and (place / "run.db").is_file() else load_bundle(place)
