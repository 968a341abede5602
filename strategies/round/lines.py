"""Events and commands as lines of text, each bound by a hash to all lines before it.

A line is one JSON object: ``n``, its number from 0; ``rules``, or an ``event`` with the ``commands`` that answered it;
and ``hash``, the SHA-256 in hex of the hash before it (empty for the first) and of the line's own text up to there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from strategies.errors import BadLine
from strategies.round.commands import Command
from strategies.round.events import Event
from strategies.round.rules import Rules

LONGEST_LINE: Final = 40_000_000  # bytes; orders to 130,000 nodes at once, the most that a run may have, take 33 MB
_LONG: Final = 1_000_000
_LEAST_VALUE: Final = 20  # bytes of an object or list in a long line; it takes 3, but 70 in memory

_EXACT: Final = ConfigDict(extra="forbid", strict=True, val_json_bytes="hex")  # strictly, true and "1" are not 1
_EVENT: Final[TypeAdapter[Event]] = TypeAdapter(
    Annotated[Event, Field(discriminator="kind")], config=ConfigDict(allow_inf_nan=False, **_EXACT)
)
_COMMANDS: Final[TypeAdapter[list[Command]]] = TypeAdapter(list[Annotated[Command, Field(discriminator="kind")]])
_RULES: Final[TypeAdapter[dict[str, Rules]]] = TypeAdapter(dict[str, Rules], config=_EXACT)  # alone it takes none
_HASH: Final = b',"hash":"'
_OF_RULES: Final = {"n", "rules", "hash"}
_OF_AN_EVENT: Final = {"n", "event", "commands", "hash"}


@dataclass(frozen=True, slots=True)
class Line:
    """A line that was read. ``commands`` are raw JSON; ``whole`` is whether the hash fits."""

    number: int
    content: Rules | Event
    commands: list[Any]
    hash: str
    whole: bool


def rules_line(number: int, rules: Rules, before: str) -> tuple[bytes, str]:
    """A line of rules, and its hash."""
    content = _RULES.dump_python({"rules": rules})["rules"]
    content["settings"]["session"] = rules.settings.session.hex()
    return _bound(b'{"n":%d,"rules":%b' % (number, json.dumps(content, separators=(",", ":")).encode()), before)


def event_line(number: int, event: Event, commands: Sequence[Command], before: str) -> tuple[bytes, str]:
    """A line with an event and the commands that answered it, and its hash."""
    said = _EVENT.dump_json(event, exclude_none=True)
    done = _COMMANDS.dump_json(list(commands), exclude_none=True)
    return _bound(b'{"n":%d,"event":%b,"commands":%b' % (number, said, done), before)


def read_hash(text: bytes, before: str) -> str | None:
    """Hash of a line without its newline, whatever its content; None if it differs from the hash in the line."""
    body, _, _ = text.rpartition(_HASH)
    digest = _digest(before, body)
    return digest if text == b'%b%b%b"}' % (body, _HASH, digest.encode()) else None


def read_line(text: bytes, before: str) -> Line:
    """Read a line without its newline. A hash that does not fit is reported in the result, not raised.

    Raises
    ------
    BadLine
        If it is no line of a log, or says what this release does not know, which may have decided something.
    """
    if len(text) > _LONG and text.count(b"{") + text.count(b"[") > len(text) // _LEAST_VALUE:
        raise BadLine(f"it has {len(text):,} bytes and next to nothing in them")
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadLine("it is not JSON") from error
    if not isinstance(entry, dict):
        raise BadLine("it is not a JSON object")
    try:
        found = str(entry["hash"])
        if type(number := entry["n"]) is not int:  # True and 1.0 would pass for 1
            raise BadLine("its n is no whole number")
        content: Rules | Event
        if "rules" in entry:
            content, commands = _RULES.validate_json(json.dumps({"rules": entry["rules"]}))["rules"], []
        else:
            content, commands = _EVENT.validate_json(json.dumps(entry["event"])), entry["commands"]
    except ValidationError as error:
        raise BadLine(_fault(error)[:200]) from error
    except KeyError as error:
        raise BadLine(f"it lacks {error}") from error
    except (ValueError, TypeError, ArithmeticError) as error:
        raise BadLine(f"it says what cannot be: {error}"[:200]) from error
    if more := entry.keys() - (_OF_RULES if "rules" in entry else _OF_AN_EVENT):
        raise BadLine(f"this release knows no {min(more)!r} in a line"[:200])
    return Line(number, content, commands, found, whole=read_hash(text, before) is not None)


def _fault(error: ValidationError) -> str:
    """The first value that cannot be, and why."""
    first = error.errors()[0]
    if first["type"] == "union_tag_invalid":
        return f"there is no event {first['ctx']['tag']!r}"
    place = ".".join(map(str, first["loc"]))
    if first["type"] == "unexpected_keyword_argument":
        return f"this release knows no {place}"
    return f"{place}: {first['msg']}".removeprefix(": ")


def as_json(commands: Sequence[Command]) -> list[Any]:
    """Commands in the JSON form of a line."""
    done: list[Any] = json.loads(_COMMANDS.dump_json(list(commands), exclude_none=True))
    return done


def _bound(body: bytes, before: str) -> tuple[bytes, str]:
    digest = _digest(before, body)
    return b'%b%b%b"}\n' % (body, _HASH, digest.encode()), digest


def _digest(before: str, body: bytes) -> str:
    return hashlib.sha256(before.encode() + body).hexdigest()
