"""The views of all runs under a root, which are opened on demand and read at most five times a second."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Final

from hypergpu_fl.dashboard.run_view import RunView
from hypergpu_fl.errors import LedgerError, RunNotFound
from hypergpu_fl.runs import find_run, run_names

AGAIN_S: Final = 10.0  # until a run that could not be read is tried again, which takes reading all of it
FRESH_S: Final = 0.2  # shortest time between two reads of a run, however many viewers it has


class RunViews:
    """Views by the runs' names below the folder ``root``; safe to use from several threads."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._views: dict[str, tuple[RunView, threading.Lock]] = {}
        self._read_s: dict[str, float] = {}
        self._unreadable: dict[str, LedgerError] = {}
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """Names of the runs."""
        return [name for name in run_names(self.root) if _looks_like_a_run(self.root / name)]

    def view(self, name: str) -> RunView:
        """A run's view, up to date.

        Raises
        ------
        RunNotFound
            If there is no such run.
        LedgerError
            If its files cannot be read.
        """
        folder = find_run(self.root, name)
        with self._lock:
            view, reading = self._views.setdefault(folder.name, (RunView(folder), threading.Lock()))
        with reading:
            error = self._unreadable.get(folder.name)
            if time.monotonic() - self._read_s.get(folder.name, -AGAIN_S) >= (AGAIN_S if error else FRESH_S):
                error = self._poll(folder.name, view)
            if error:
                raise LedgerError(error.cause, error.remedy)
        return view

    def readable(self) -> tuple[list[RunView], list[tuple[str, LedgerError]]]:
        """Views of all runs that can be read, up to date, and why the others cannot."""
        views, faults = [], []
        for name in self.names():
            try:
                views.append(self.view(name))
            except LedgerError as error:
                faults.append((name, error))
            except RunNotFound:
                continue  # removed just now
        return views, faults

    def _poll(self, name: str, view: RunView) -> LedgerError | None:
        self._unreadable.pop(name, None)
        try:
            view.poll()
        except LedgerError as error:
            self._unreadable[name] = error
        self._read_s[name] = time.monotonic()
        return self._unreadable.get(name)

    def close(self) -> None:
        """Release all files."""
        for view, _ in self._views.values():
            view.close()


def _looks_like_a_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("events.jsonl", "config.json", "run.db"))
