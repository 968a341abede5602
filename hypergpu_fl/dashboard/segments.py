"""Where each round begins in a growing event log, found without parsing the log.

A log of 1,000 nodes and 1,000 rounds has a million lines. Only two kinds of lines are searched for in its bytes: those
where a round begins, and those where a node gets its row. A round's lines are parsed when somebody looks at the round.

A quotation mark inside a JSON string is written with a backslash, so no text from a node can look like such a line.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

from pydantic_core import from_json

_DUE: Final = b'"kind":"round due"}'
_JOINED: Final = b'"kind":"joined"}'
_CLOSE: Final = b'"kind":"close"}'
_PIECE: Final = 8 << 20  # bytes read at once
_TAIL: Final = 48 << 10  # bytes at a round's end in which its last lines are searched for first
_SEEN: Final = 96  # last bytes read, which are compared at the next read to see that the log is still the same

Line = dict[str, Any]


class LogGone(Exception):
    """The log was cut back or replaced, as when a run is resumed: what was read of it no longer holds."""


@dataclass
class Segments:
    """Index of a log.

    Attributes
    ----------
    starts : list of int
        Offset of the first line of round ``i + 1``.
    names : list of str
        Names of the nodes by row.
    read_bytes : int
        How far the index goes; always the end of a line.
    last_s : float
        Time of the newest event, in seconds on the run's clock.
    """

    path: Path
    starts: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    read_bytes: int = 0
    last_s: float = 0.0
    _known: set[str] = field(default_factory=set)
    _before: bytes = b""

    def grow(self) -> bool:
        """Index what was added; whether anything was added.

        Raises
        ------
        LogGone
            If the log is not the one that was read so far.
        """
        try:
            with self.path.open("rb") as file:
                return self._grow(file)
        except FileNotFoundError:
            if self.read_bytes:
                raise LogGone from None
            return False

    def lines(self, round: int) -> list[Line]:
        """Every complete line of a round, parsed."""
        start, end = self.span(round)
        return [from_json(text) for text in self._bytes(start, end).split(b"\n") if text]

    def opening(self) -> list[Line]:
        """The lines before the first round."""
        end = self.starts[0] if self.starts else self.read_bytes
        return [from_json(text) for text in self._bytes(0, end).split(b"\n") if text]

    def closing(self, round: int) -> list[Line]:
        """A round's last lines, from the one that closes it on; empty while the round is open."""
        start, end = self.span(round)
        length = _TAIL
        while True:
            first = max(start, end - length)
            text = self._bytes(first, end)
            found = text.rfind(_CLOSE)
            begin = text.rfind(b"\n", 0, found) + 1 if found >= 0 else 0
            if found >= 0 and (begin > 0 or first == start):
                return [from_json(line) for line in text[begin:].split(b"\n") if line]
            if first == start:
                return []
            length *= 4

    def span(self, round: int) -> tuple[int, int]:
        """Offsets of a round's lines."""
        start = self.starts[round - 1]
        return start, self.starts[round] if round < len(self.starts) else self.read_bytes

    def _bytes(self, start: int, end: int) -> bytes:
        if end <= start:
            return b""
        try:
            with self.path.open("rb") as file:
                file.seek(start)
                return file.read(end - start)
        except FileNotFoundError:
            raise LogGone from None

    def _grow(self, file: BinaryIO) -> bool:
        if self._before:
            file.seek(self.read_bytes - len(self._before))
            if file.read(len(self._before)) != self._before:
                raise LogGone
        file.seek(self.read_bytes)
        rest, taken = b"", 0
        while piece := file.read(_PIECE):
            taken += len(piece)
            text = rest + piece
            end = text.rfind(b"\n") + 1
            if end:
                self._index(text[:end] if end < len(text) else text)
            rest = text[end:]
        return taken > len(rest)

    def _index(self, text: bytes) -> None:
        """Index whole lines that follow those read before."""
        for place in _places(text, _DUE):
            self.starts.append(self.read_bytes + text.rfind(b"\n", 0, place) + 1)
        for place in _places(text, _JOINED):
            line = from_json(text[text.rfind(b"\n", 0, place) + 1 : text.find(b"\n", place)])
            name = str(line["event"]["name"])
            if name not in self._known:
                self._known.add(name)
                self.names.append(name)
        last = from_json(text[text.rfind(b"\n", 0, len(text) - 1) + 1 :])
        self.last_s = last.get("event", {}).get("at_s", self.last_s)
        self.read_bytes += len(text)
        self._before = (self._before + text[-_SEEN:])[-_SEEN:]


def _places(text: bytes, pattern: bytes) -> list[int]:
    places, place = [], text.find(pattern)
    while place >= 0:
        places.append(place)
        place = text.find(pattern, place + 1)
    return places
