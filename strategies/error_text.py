"""A node's error in one line: the exception of the task or of ours, without what Flower and Ray wrap it in."""

from __future__ import annotations

import re
from typing import Final

LONGEST: Final = 500
_READ: Final = 20_000  # characters; the exception that matters is nearer to the end
_ANSI: Final = re.compile(r"\x1b\[[0-9;]*m")
_CHAINED: Final = re.compile(
    r"\n(?:The above exception was the direct cause|During handling of the above exception).*\n"
)
_RAISED: Final = re.compile(r"^((?:\w+\.)*)([A-Z]\w*)(?:: (.*))?$", re.MULTILINE)
_WRAPPERS: Final = ("flwr.", "ray.")
_MESSAGE: Final = re.compile(r"Exception \w+ occurred\. Message: (.*?)(?:'>)?\s*\Z", re.DOTALL)
_TYPED: Final = re.compile(r"<class '(?:\w+\.)*(\w+)'>:<'(.*?)(?:'>)?\s*\Z", re.DOTALL)


def error_line(reason: str) -> str:
    """``Name: text; remedy`` of the outermost exception that is neither Flower's nor Ray's, at most ``LONGEST`` long.

    ``reason`` is what Flower hands over: in simulation a chain of tracebacks, on a deployment the text of the
    exception. Whatever has another form is put on one line as it stands.
    """
    text = _ANSI.sub("", reason[-_READ:])
    return " ".join((_raised(text) or _told(text) or text).split())[:LONGEST]


def _raised(text: str) -> str | None:
    """The last exception of the outermost traceback that shows one of neither Flower nor Ray."""
    for traceback in reversed(_CHAINED.split(text)):
        for match in reversed(list(_RAISED.finditer(traceback))):
            module, name, message = match.groups()
            if not module.startswith(_WRAPPERS):
                note = traceback[match.end() :].partition("\nremedy: ")[2].partition("\n")[0]
                return (f"{name}: {message}" if message else name) + (f"; {note}" if note else "")
    return None


def _told(text: str) -> str | None:
    """The message inside Flower's own words for an exception whose traceback stayed on the node."""
    if match := _MESSAGE.search(text):
        return match[1]
    typed = _TYPED.match(text)
    return typed and (f"{typed[1]}: {typed[2]}" if typed[2].strip() else typed[1])
