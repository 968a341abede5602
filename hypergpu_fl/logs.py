"""Sends log records, including Flower's and the standard library's, to the terminal and to a rotating file.

Every record is redacted and made printable after it is formatted, so that tracebacks are covered too; local variables
are never printed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from loguru import logger

from hypergpu_fl.output import printable_lines
from hypergpu_fl.redaction import redact

if TYPE_CHECKING:
    from loguru import Record

    from hypergpu_fl.config import System

_COLOURS: Final = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "red"}
_LOGURUS_OWN: Final = 0
_ours: list[int] = []  # our sinks, by loguru's numbers


def configure(system: System, folder: Path | None = None) -> None:
    """Send the records of this process to standard error and, if ``folder`` is given, to a file in it.

    Parameters
    ----------
    system : System
        ``log_level``, ``log_file``, ``log_rotation_mb`` (megabytes after which a new file is begun) and
        ``log_retention`` (rotated files that are kept).
    folder : Path, optional
        The run's folder. Only one process may write a file, since rotation renames it; a ClientApp gives none.
    """
    from hypergpu_fl.config import read_secrets  # not above: no command needs to wait for it to say a word

    read_secrets()
    logger.remove()
    _add_sinks(system, folder)


def say_as_commands_do() -> None:
    """Send the records of this process to standard error as commands speak: the message, with a warning's level.

    Where somebody has taken loguru's own sink away, records stay where they were sent.
    """
    try:
        logger.remove(_LOGURUS_OWN)
    except ValueError:
        return
    logger.add(_to_stderr, level="INFO", format=_plain, colorize=False, backtrace=False, diagnose=False)


def restore(system: System, folder: Path | None = None) -> None:
    """`configure` again, and leave the sinks of others: the user's code may have removed ours, or silenced everything.

    Many a script begins with loguru's ``logger.remove()``, or with ``logging.basicConfig(force=True)``.
    """
    for sink in _ours:
        with contextlib.suppress(ValueError):  # it is gone
            logger.remove(sink)
    _add_sinks(system, folder)


def _add_sinks(system: System, folder: Path | None) -> None:
    colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    _ours[:] = [
        logger.add(
            _to_stderr,
            level=system.log_level,
            format=_console,
            filter=_worth_showing if system.log_level == "INFO" else None,
            colorize=colour,
            backtrace=False,
            diagnose=False,
        )
    ]
    if folder is not None and system.log_file:
        _ours.append(
            logger.add(
                folder / system.log_file,
                level=system.log_level,
                format=_file,
                rotation=int(system.log_rotation_mb * 1e6),
                retention=system.log_retention,
                encoding="utf-8",
                backtrace=False,
                diagnose=False,
            )
        )
    _route_standard_library(system.log_level)


def _worth_showing(record: Record) -> bool:
    """Whether a person who follows a run wants it: Flower says each round in six more lines, which the file keeps."""
    return record["level"].no > logging.INFO or not str(record["name"]).startswith("flwr")


def _to_stderr(message: str) -> None:
    # Looked up on each call: Flower replaces sys.stderr to forward what an app prints.
    sys.stderr.write(message)


def _console(record: Record) -> str:
    """``HH:MM:SS  message``, coloured by level; the level is named where it matters."""
    level = record["level"].name
    line = f"{{time:HH:mm:ss}}  {_plain(record)}"
    return f"<{_COLOURS[level]}>{line}</>" if level in _COLOURS else line


def _plain(record: Record) -> str:
    """The message; the level is named where it matters."""
    record["extra"]["redacted"] = _text(record)
    name = f"{record['level'].name.lower()}: " if record["level"].no >= logging.WARNING else ""
    return f"{name}{{extra[redacted]}}\n"


def _file(record: Record) -> str:
    """``YYYY-MM-DD HH:MM:SS.mmm | LEVEL | module:line | message``."""
    record["extra"]["redacted"] = _text(record)
    return "{time:YYYY-MM-DD HH:mm:ss.SSS} | {level:<8} | {name}:{line} | {extra[redacted]}\n"


def _text(record: Record) -> str:
    """Message and traceback, redacted and printable. Each sink formats a record anew, so nothing is cached."""
    text = str(record["message"])
    if record["exception"] is not None:
        kind, value, frames = record["exception"]
        text = "\n".join([text, "".join(traceback.format_exception(kind, value, frames)).rstrip()])
    return printable_lines(redact(text))


class _ToLoguru(logging.Handler):
    """Hands a record of the standard library to loguru, under the name of the module that made it."""

    def emit(self, record: logging.LogRecord) -> None:
        level: str | int = record.levelname if record.levelname in _LEVELS else record.levelno

        def name_it(target: Record) -> None:
            target["name"], target["line"], target["function"] = record.name, record.lineno, record.funcName

        logger.patch(name_it).opt(exception=record.exc_info).log(level, "{}", record.getMessage())


_LEVELS: Final = {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}


def _route_standard_library(level: str) -> None:
    # Libraries are heard from WARNING on; their finer records (numba, urllib3, web3) would bury ours. TRACE shows them,
    # except httpx's: Flower posts each log line through httpx, so each line would cause the next.
    logging.captureWarnings(True)
    logging.disable(logging.NOTSET)
    root = logging.getLogger()
    root.handlers[:] = [_ToLoguru()]
    root.setLevel(logging.DEBUG if level == "TRACE" else logging.WARNING)
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
    flower = logging.getLogger("flwr")
    flower.handlers.clear()
    flower.propagate = True
    flower.setLevel(logging.DEBUG if level == "TRACE" else max(logging.INFO, logger.level(level).no))


def parse(line: str) -> dict[str, Any] | None:
    """Fields ``time, level, module, message`` of a line of the file; None for a line that continues the last one."""
    fields = line.rstrip("\n").split(" | ", 3)
    if len(fields) != 4 or not line[:4].isdigit():
        return None
    return dict(zip(("time", "level", "module", "message"), (field.strip() for field in fields), strict=True))
