"""``[training.options]``: a table of scalars for the task's own use.

Flower's run-config takes no key that ``pyproject.toml`` does not list, so the table travels as one JSON text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

from hypergpu_fl.errors import REMEDY
from strategies.spelling import nearest

FIELD: Final = "training.options"
_LONGEST: Final = 1 << 16  # characters of the whole table as JSON
_WANTED: Final = "must be a table of texts, finite numbers, true and false"


class TaskOptions(dict[str, bool | int | float | str]):
    """The table; who asks for what it lacks is told what it has."""

    def __missing__(self, name: str) -> bool | int | float | str:
        error, near = KeyError(name), nearest(str(name), self)
        has = f"it has {near!r}" if near else f"it has {', '.join(map(repr, sorted(self)[:9])) or 'none'}"
        error.add_note(f"{REMEDY}name {name!r} in [{FIELD}] of the configuration; {has}")
        raise error


def checked(value: Any) -> dict[str, bool | int | float | str]:
    """The table, given as such or as its JSON text.

    Raises
    ------
    ValueError
        If it is nested, holds something else than scalars, or is longer than 64 KiB.
    """
    table = _read(value) if isinstance(value, str) else value
    if not isinstance(table, Mapping):
        raise ValueError(_WANTED)
    for name, option in table.items():
        if not isinstance(name, str) or not isinstance(option, bool | int | float | str):
            raise ValueError(f"{_WANTED}; option {name!r} is a {type(option).__name__}"[:200])
        if isinstance(option, float) and not math.isfinite(option):
            raise ValueError(f"{_WANTED}; option {name!r} is {option}"[:200])
    if len(json.dumps(table)) > _LONGEST:
        raise ValueError("must be at most 64 KiB as JSON; keep data in files and name them here")
    return dict(table)


def unpacked(layer: Mapping[str, Any]) -> dict[str, Any]:
    """A flat layer with each option as a setting of its own, so that a later layer may replace it."""
    text = layer.get(FIELD)
    if not isinstance(text, str):
        return {path: _scalar(value) if path.startswith(f"{FIELD}.") else value for path, value in layer.items()}
    try:
        table = checked(text)
    except ValueError:
        return dict(layer)  # the check of the whole tree says what is wrong
    rest = unpacked({path: value for path, value in layer.items() if path != FIELD})
    return {f"{FIELD}.{name}": value for name, value in table.items()} | rest


def packed(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of `unpacked`."""
    prefix = f"{FIELD}."
    table = {path.removeprefix(prefix): value for path, value in flat.items() if path.startswith(prefix)}
    rest = {path: value for path, value in flat.items() if path != FIELD and not path.startswith(prefix)}
    return rest | {FIELD: json.dumps(table, sort_keys=True)}


def _scalar(value: Any) -> Any:
    """Text of ``--set`` or a variable as the number or truth value that it spells, as TOML would read it."""
    if not isinstance(value, str):
        return value
    try:
        read = _read(value.strip())
    except ValueError:
        return value
    return read if isinstance(read, bool | int | float) else value


def _read(text: str) -> Any:
    if len(text) > _LONGEST:
        raise ValueError("must be at most 64 KiB as JSON")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(_WANTED) from None
