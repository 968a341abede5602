"""New lines of a growing log file, across its rotation."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from hypergpu_fl import logs


class Tail:
    """Reads the complete lines that were added to ``path`` since the last call.

    Rotation renames the file and begins a new one: the old one is read to its end first.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None
        self._partial = b""

    def lines(self) -> Iterator[str]:
        """Lines since the last call, without their ends."""
        while self._file is not None or self._path.exists():
            if self._file is None:
                self._file = self._path.open("rb")
            *complete, self._partial = (self._partial + self._file.read()).split(b"\n")
            for line in complete:
                yield line.decode("utf-8", "replace")
            if not self._rotated():
                return
            self.close()

    def skip(self) -> None:
        """Pass over what is there: the log of a run that is resumed."""
        for _ in self.lines():
            pass

    def close(self) -> None:
        """Release the file."""
        if self._file is not None:
            self._file.close()
        self._file = None

    def _rotated(self) -> bool:
        assert self._file is not None
        try:
            return not os.path.samestat(self._path.stat(), os.fstat(self._file.fileno()))
        except FileNotFoundError:
            return False  # between rename and creation: look again later


def worth_showing(line: str) -> str | None:
    """Text of a log line for someone who watches a run: ours, and warnings of libraries.

    Flower's own lines stay in the log file: what they say of a failure is said better when the run has ended.
    """
    entry = logs.parse(line)
    if entry is None or entry["module"].startswith("flwr"):
        return None
    if entry["level"] in ("WARNING", "ERROR", "CRITICAL"):
        return f"{entry['level'].lower()}: {entry['message']}"
    ours = entry["module"].startswith(("hypergpu_fl", "strategies"))
    return entry["message"] if ours and entry["level"] == "INFO" else None
