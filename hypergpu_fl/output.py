"""Makes output harmless: text that cannot control a terminal or forge a line, and JSON that any reader accepts.

Names, devices and error texts come from unknown nodes. They are stored as they came and made harmless here, where they
leave the program: in logs, tables, errors and JSON.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Mapping
from typing import Any, Final

_CONTINUATION: Final = "\n    "  # a line of the log begins with a date, so an indented one is never taken for another


def printable(text: str) -> str:
    r"""``text`` on one line: control, format and lone surrogate characters as ``\x1b``, ``\u202e``, ``\n``."""
    if text.isprintable():
        return text
    return "".join(map(_escaped, text))


def printable_lines(text: str) -> str:
    """The same of each line of ``text``; those after the first are indented by four spaces."""
    return _CONTINUATION.join(printable(line.expandtabs(4)) for line in text.split("\n"))


def of_those_asked(arrived: int, asked: int) -> str:
    """``"8/9"``; in a round in which nobody was asked, only late replies can arrive."""
    return f"{arrived}/{asked}" if asked else str(arrived)


def by_number(name: str) -> tuple[str, int]:
    """Sort key that puts ``node-10`` after ``node-9``."""
    stem, _, number = name.rpartition("-")
    return (stem, int(number)) if number.isdecimal() and len(number) < 19 else (name, 0)


def to_json(content: Any, *, indent: int | None = None) -> str:
    """``content`` as JSON (RFC 8259): NaN and infinities, which JSON lacks, become null; unknown types their text."""
    return json.dumps(_plain(content), indent=indent, allow_nan=False)


def _escaped(character: str) -> str:
    if character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    return character.encode("unicode_escape").decode("ascii")


def _plain(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {str(key): _plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(value) for value in content]
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    return content if isinstance(content, str | int | None) else str(content)
