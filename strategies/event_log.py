"""A run's event log on disk: written as events happen, synced whenever a round closes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Final

from strategies.durable import sync
from strategies.errors import BadLine, NotWritten
from strategies.round.commands import Command
from strategies.round.events import Event
from strategies.round.lines import LONGEST_LINE, event_line, read_line, rules_line
from strategies.round.rules import Rules

FILE: Final = "events.jsonl"
_REMEDY: Final = "remedy: make room there, or give this user the right to write; then resume the run"


@dataclass(frozen=True, slots=True)
class Mark:
    """A position in the log: the lines and bytes before it, and the hash of the last of those lines."""

    lines: int = 0
    bytes: int = 0
    head: str = ""


BEGINNING: Final = Mark()


class EventLog:
    """Appends to ``path``. If the disk refuses, that is ``NotWritten``, and the run may be resumed from its last mark.

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
    NotWritten
        If the disk refuses.
    """

    def __init__(self, path: Path, rules: Rules, *, after: Mark = BEGINNING) -> None:
        self._path, self._mark = path, after
        with self._written():
            # Without a buffer, whoever watches the run sees each line at once, and closing writes nothing any more.
            self._file = FileIO(path, "r+" if path.exists() else "w+")
        try:
            if after.lines:
                self._check(path)
            with self._written():
                self._file.truncate(after.bytes)
                self._file.seek(after.bytes)
                sync(path.parent)  # a power cut takes the name of a new file unless its folder is on the disk, too
            self._append(*rules_line(after.lines, rules, after.head))
        except BaseException:
            self._file.close()
            raise

    def append(self, event: Event, commands: Sequence[Command]) -> None:
        """Add an event and the commands that answered it."""
        self._append(*event_line(self._mark.lines, event, commands, self._mark.head))

    def sync(self) -> Mark:
        """Sync the file to disk, and return the position reached."""
        with self._written():
            os.fsync(self._file.fileno())
        return self._mark

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def _append(self, line: bytes, head: str) -> None:
        rest = memoryview(line)
        with self._written():
            while rest:
                rest = rest[self._file.write(rest) :]
        self._mark = Mark(self._mark.lines + 1, self._mark.bytes + len(line), head)

    def _check(self, path: Path) -> None:
        """Check that the line before the mark is the one that the mark names."""
        size = min(self._mark.bytes, LONGEST_LINE)
        self._file.seek(self._mark.bytes - size)
        lines = self._file.read(size).splitlines(keepends=True)
        last = lines[-1] if lines and lines[-1].endswith(b"\n") and sum(map(len, lines)) == size else b""
        if not last or read_line(last.rstrip(b"\n"), "").hash != self._mark.head:
            raise BadLine(f"{path} does not hold the {self._mark.lines} lines that the checkpoint speaks of")

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            refused = NotWritten(f"the event log cannot be written: {error.strerror}: {self._path}")
            refused.add_note(_REMEDY)
            raise refused from error
