"""What a command's RUN argument points at: a run's name, ``latest``, a folder, or an exported file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from hypergpu_fl.cli.options import root_of
from hypergpu_fl.errors import RunNotFound, UsageError
from hypergpu_fl.files import path_meant
from hypergpu_fl.runs import elsewhere, find_run

if TYPE_CHECKING:
    from hypergpu_fl.ledger.bundle import Bundle

_OF_A_RUN: Final = ("config.json", "events.jsonl", "ledger.json", "report.json", "run.db", "submission.json")


def place_of(run: str, runs: Path | None) -> Path:
    """Folder of a run whose books may lie in it, or the file that was given instead.

    Raises
    ------
    UsageError
        If there is no such file, but one of a like name.
    RunNotFound
        If there is none, or if it was sent to a SuperLink from here and its books lie where that keeps them.
    """
    path = Path(run)
    if path.is_file() and (_is_path(run) or path.suffix == ".json"):
        return path
    if path.suffix == ".json" and not path.exists() and (meant := path_meant(path)):
        raise UsageError(f"there is no file {run}", meant)
    folder = folder_of(run, runs)
    if fault := elsewhere(folder):
        raise RunNotFound(fault.cause, fault.remedy)
    return folder


def books_folder(run: str, runs: Path | None) -> Path:
    """Folder of a run whose books may lie in it; see `place_of`.

    Raises
    ------
    RunNotFound, UsageError
        See `place_of`; the latter for a file.
    """
    place = place_of(run, runs)
    if not place.is_dir():
        raise UsageError(f"{run} is a file, and the folder of a run is wanted", "name the run, or its folder")
    return place


def folder_of(run: str, runs: Path | None) -> Path:
    """Folder of a run, by its name under the root of the runs, ``latest``, or its path, such as ``../other/demo``.

    Raises
    ------
    RunNotFound
        If there is none.
    """
    if not _is_path(run):
        return find_run(root_of(runs), run)
    folder = Path(run)
    if not any((folder / name).exists() for name in _OF_A_RUN):
        what = "holds no run" if folder.is_dir() else "is no folder"
        remedy = path_meant(folder) or "give the folder of a run, or the name of one under --runs"
        raise RunNotFound(f"{run} {what}", remedy)
    return folder.resolve()


def _is_path(run: str) -> bool:
    return "/" in run


def books_of(run: str, runs: Path | None) -> Bundle:
    """Return a run's live books, or the exported ones where there is no database."""
    from hypergpu_fl.settlement import load_books, load_bundle

    place = place_of(run, runs)
    return load_books(place) if place.is_dir() and (place / "run.db").is_file() else load_bundle(place)
