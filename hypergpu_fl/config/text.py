"""A text file that a person wrote, in whatever editor."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from hypergpu_fl.errors import ConfigError, Fault

_LARGEST_BYTES: Final = 1 << 20


def read_text(file: Path) -> str:
    """Text of a small file in UTF-8, without the mark that some editors begin it with, and with one kind of line end.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ConfigError
        If it cannot be read, is too large, or is not UTF-8 text. The text itself is not shown: it may hold a secret.
    """
    try:
        with file.open("rb") as stream:
            content = stream.read(_LARGEST_BYTES + 1)
        if len(content) > _LARGEST_BYTES:  # before its end is decoded, which may be half a character
            raise _error(f"{file} is larger than 1 MiB", "keep only settings in it")
        text = content.decode("utf-8-sig")
    except FileNotFoundError:
        raise
    except UnicodeDecodeError as error:
        raise _error(f"{file} is not UTF-8 text (byte {error.start})", "save it as UTF-8") from None
    except OSError as error:
        raise _error(f"cannot read {file}: {error.strerror}", "check its type and permissions") from None
    if "\0" in text:
        raise _error(f"{file} is not UTF-8 text (it holds zeros, as UTF-16 does)", "save it as UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _error(cause: str, remedy: str) -> ConfigError:
    return ConfigError([Fault(cause, remedy)])
