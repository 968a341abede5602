"""A configuration's file, JSON or TOML, as anybody may have written it."""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any, Final

from hypergpu_fl.config.faults import shown
from hypergpu_fl.config.flat import leaves
from hypergpu_fl.config.text import read_text
from hypergpu_fl.errors import ConfigError, Fault
from hypergpu_fl.files import path_meant

_DEEPEST: Final = 20
_BRACKET: Final = re.compile(r"[\[{]|[\]}]|\"(?:[^\"\\\n]|\\.)*+\"?|'[^'\n]*+'?")


def read(file: Path) -> dict[str, Any]:
    """Content of a JSON or TOML file.

    Raises
    ------
    ConfigError
        Missing or unreadable, of another type, too large, or broken; the latter with line and column.
    """
    kind = file.suffix.lower()
    if kind not in (".json", ".toml"):
        raise _error(f"{file} is neither .json nor .toml", "give the configuration one of these endings")
    try:
        text = read_text(file)
    except FileNotFoundError:
        remedy = path_meant(file) or "check the path; the clone's configs/ holds examples"
        raise _error(f"there is no file {file}", remedy) from None
    if _depth(text) > _DEEPEST:
        raise _error(f"{file} is nested too deeply", "use the four tables training, network, blockchain, system")
    try:
        tree = json.loads(text, object_pairs_hook=_no_duplicates) if kind == ".json" else tomllib.loads(text)
        str(tree)  # refuses numbers that could be read, as hexadecimal ones of TOML, but not shown
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise _error(f"{file} is not valid JSON at {where}: {error.msg}", f"correct {where}") from None
    except tomllib.TOMLDecodeError as error:
        reason, where = _toml_position(str(error), text)
        raise _error(f"{file} is not valid TOML at {where}: {reason}", f"correct {where}") from None
    except _DuplicateKey as error:
        raise _error(f"{file} gives {error.args[0]!r} twice", "keep one of the two") from None
    except ValueError:  # Python reads no more digits than this, since that takes quadratic time
        raise _error(f"{file} holds a number of more than 4,300 digits", "no setting takes such a number") from None
    if not isinstance(tree, dict):
        raise _error(f"{file} holds {shown(tree)}, not a table", 'start with {"training": {...}}')
    given = Counter(path for path, _ in leaves(tree))
    if twice := [path for path, times in given.items() if times > 1]:
        raise _error(f"{file} gives {twice[0]} twice, in a table and with dots", "keep one of the two")
    return tree


def _depth(text: str) -> int:
    """Largest number of open brackets outside quotes.

    Looked at before parsing, since a parser that recurses ends the whole process if a library has raised Python's
    recursion limit, as some that we import do.
    """
    deepest = depth = 0
    for match in _BRACKET.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(match[0], 0)
        deepest = max(deepest, depth)
    return deepest


class _DuplicateKey(Exception):
    pass


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in pairs:
        if name in tree:
            raise _DuplicateKey(name)
        tree[name] = value
    return tree


def _error(cause: str, remedy: str) -> ConfigError:
    return ConfigError([Fault(cause, remedy)])


def _toml_position(message: str, text: str) -> tuple[str, str]:
    """Split tomllib's ``reason (at line L, column C)``; at the end of the document it gives no numbers."""
    reason, _, position = message.partition(" (at ")
    if not position.startswith("line"):
        lines = text.split("\n")
        return reason, f"line {len(lines)} column {len(lines[-1]) + 1}"
    return reason, position.rstrip(")").replace(",", "")
