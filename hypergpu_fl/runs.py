"""Folders of runs: ``<root>/<name>/``, and ``<root>/latest``, a link to the newest."""

from __future__ import annotations

import contextlib
import itertools
import os
from pathlib import Path
from typing import Final

from hypergpu_fl.config import run_name
from hypergpu_fl.errors import ConfigError, Fault, RunNotFound
from hypergpu_fl.files import private_folder
from strategies.spelling import did_you_mean

LATEST: Final = "latest"
BOOKS_LOCK: Final = ".books.lock"  # in a run's folder; held by the server that writes the books


def open_run_folder(root: Path, name: str, *, stem: str = "run") -> Path:
    """Create ``<root>/<name>`` if it is missing, point ``latest`` to it, and return it.

    Without a name (``flwr run .``) the first free ``<stem>-N`` is taken; no two processes get the same one.

    Raises
    ------
    ConfigError
        If the name cannot be a folder's.
    """
    folder = private_folder(root / checked_name(name)) if name else _free_folder(root, stem)
    link = root / LATEST
    fresh = root / f".{LATEST}.{os.getpid()}"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(folder.name)
    fresh.replace(link)  # atomic: a reader sees the old run or the new one, never none
    return folder


def checked_name(name: str) -> str:
    """Return ``name`` if a run's folder may be called so.

    Raises
    ------
    ConfigError
        If not.
    """
    try:
        return run_name(name)
    except ValueError as error:
        raise ConfigError([Fault(f"the run name {name!r} {error}", "choose another name")]) from None


def find_run(root: Path, name: str = LATEST) -> Path:
    """Folder of a run, or of the newest one for ``latest``.

    Raises
    ------
    RunNotFound
        If there is none of this name under ``root``.
    """
    folder = root / name
    names = run_names(root)
    if name in names or (name == LATEST and folder.is_dir()):
        return folder.resolve()
    if not names:
        raise RunNotFound(f"there is no run under {root}", "start one with `hypergpu run`, or give --runs")
    hint = did_you_mean(name, names).removeprefix("; ")
    raise RunNotFound(f"there is no run {name!r} under {root}", hint or f"the runs there are: {', '.join(names[:9])}")


def run_names(root: Path) -> list[str]:
    """Names of all runs under ``root``, sorted."""
    if not root.is_dir():
        return []
    return sorted(p.name for p in root.iterdir() if p.is_dir() and not p.is_symlink() and p.name[0] != ".")


def _free_folder(root: Path, stem: str) -> Path:
    """Create the first of ``stem-1``, ``stem-2``, ... that does not exist. Creating it claims the name."""
    private_folder(root)
    for number in itertools.count(1):
        with contextlib.suppress(FileExistsError):
            (root / f"{stem}-{number}").mkdir(mode=0o700)
            return root / f"{stem}-{number}"
    raise AssertionError("unreachable: numbers do not end")


def node_state_folder(root: Path, run_id: int) -> Path:
    """The default folder in which nodes of Flower's run ``run_id`` keep what must outlive a message."""
    return root / ".nodes" / f"{run_id:x}"
