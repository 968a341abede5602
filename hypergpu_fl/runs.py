"""Folders of runs: ``<root>/<name>/``, and ``<root>/latest``, a link to the newest."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shlex
from pathlib import Path
from typing import Final

from hypergpu_fl.config import System, environment, run_name, runs_root
from hypergpu_fl.errors import ConfigError, Fault, RunNotFound
from hypergpu_fl.files import path_meant, private_folder
from strategies.spelling import did_you_mean

LATEST: Final = "latest"
COMMAND_LOCK: Final = ".lock"  # in a run's folder; held by the command that submits or follows it
BOOKS_LOCK: Final = ".books.lock"  # in a run's folder; held by the server that writes the books
SUBMITTED: Final = "submission.json"  # of a run sent to a SuperLink: Flower's id of it, and the connection


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
        meant = path_meant(root)
        start = "start one with `hypergpu run`, or give --runs"
        raise RunNotFound(f"there is no run under {root}", f"{meant} If not, {start}" if meant else start)
    hint = did_you_mean(name, names).removeprefix("; ")
    raise RunNotFound(f"there is no run {name!r} under {root}", hint or f"the runs there are: {', '.join(names[:9])}")


def elsewhere(folder: Path) -> Fault | None:
    """What to say of a run that was sent to a SuperLink and of which nothing else lies here; None for any other."""
    connection = submitted_to(folder)
    if not connection or any((folder / name).exists() for name in ("run.db", "ledger.json", "report.json")):
        return None
    return Fault(
        f"run {folder.name} was sent to the SuperLink {connection!r}, and its books do not lie in {folder}",
        "ask on the SuperLink's machine, with --runs: they are in its HYPERGPU_RUNS, or in runs/ where "
        "`hypergpu server start` was typed, from the run's start on",
    )


def submitted_to(folder: Path) -> str:
    """Connection over which a run was sent to a SuperLink; empty for one that was not, or not from here."""
    try:
        return str(json.loads((folder / SUBMITTED).read_text(encoding="utf-8"))["connection"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return ""


def resume_command(folder: Path) -> str:
    """How the run of this folder is taken up again: where it was at work, in a simulation or on a SuperLink."""
    connection = submitted_to(folder)
    where = f" --superlink {shlex.quote(connection)}" if connection else ""
    return f"hypergpu run{where} --resume {as_argument(folder)}"


def as_argument(folder: Path) -> str:
    """What finds the run of this folder if it is typed here: its name, or its path if it lies under another root."""
    here = runs_root(System(), environment(os.environ))
    return shlex.quote(folder.name if folder.parent.resolve() == here else str(folder))


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


def node_state_folder(root: Path, run_id: int, simulated_as: str) -> Path:
    """The default folder in which nodes of Flower's run ``run_id`` keep what must outlive a message.

    That of simulated nodes lies in the folder of their run, if its name is known to them, and so goes with it.
    """
    return root / simulated_as / ".nodes" if simulated_as else root / ".nodes" / f"{run_id:x}"
