"""A run's event log on disk: written as events happen, synced whenever a round closes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from strategies.errors import BadLine
from strategies.round.commands import Command
from strategies.round.events import Event
from strategies.round.lines import LONGEST_LINE, event_line, read_line, rules_line
from strategies.round.rules import Rules

FILE: Final = "events.jsonl"


@dataclass(frozen=True, slots=True)
class Mark:
    """A position in the log: the lines and bytes before it, and the hash of the last of those lines."""

    lines: int = 0
    bytes: int = 0
    head: str = ""


BEGINNING: Final = Mark()


class EventLog:
    """Appends to ``path``.

    Parameters
    ----------
    path : Path
        The file; made if it is not there.
    rules : Rules
        The rules that apply to the events from here on.
    after : Mark
        Where to continue. What follows belongs to rounds that are not in the books, and is cut off.

    Raises
    ------
    BadLine
        If the file is shorter than the mark, or holds something else there.
    """

    def __init__(self, path: Path, rules: Rules, *, after: Mark = BEGINNING) -> None:
        self._mark = after
        self._file: BinaryIO = path.open("r+b" if path.exists() else "w+b")
        try:
            if after.lines:
                self._check(path)
        except BadLine:
            self._file.close()
            raise
        self._file.truncate(after.bytes)
        self._file.seek(after.bytes)
        self._append(*rules_line(after.lines, rules, after.head))
        _sync_folder(path.parent)

    def append(self, event: Event, commands: Sequence[Command]) -> None:
        """Add an event and the commands that answered it."""
        self._append(*event_line(self._mark.lines, event, commands, self._mark.head))

    def sync(self) -> Mark:
        """Sync the file to disk, and return the position reached."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._mark

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def _append(self, line: bytes, head: str) -> None:
        self._file.write(line)
        self._file.flush()  # so that whoever watches the run sees each line at once
        self._mark = Mark(self._mark.lines + 1, self._mark.bytes + len(line), head)

    def _check(self, path: Path) -> None:
        """Check that the line before the mark is the one that the mark names."""
        size = min(self._mark.bytes, LONGEST_LINE)
        self._file.seek(self._mark.bytes - size)
        lines = self._file.read(size).splitlines(keepends=True)
        last = lines[-1] if lines and lines[-1].endswith(b"\n") and sum(map(len, lines)) == size else b""
        if not last or read_line(last.rstrip(b"\n"), "").hash != self._mark.head:
            raise BadLine(f"{path} does not hold the {self._mark.lines} lines that the checkpoint speaks of")


def _sync_folder(folder: Path) -> None:
    """A power cut takes the name of a new file, however much of it is on the disk, unless its folder is there too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
