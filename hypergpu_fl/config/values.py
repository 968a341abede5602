"""Checks of single values, each by the rule of whoever uses the value. All return it in normal form."""

from __future__ import annotations

import re
import socket
import unicodedata
from collections.abc import Callable, Iterable
from typing import Final
from urllib.parse import urlsplit

from strategies.spelling import did_you_mean

INT64: Final = range(-(2**63), 2**63)
_HEX_ADDRESS: Final = re.compile(r"0x[0-9a-fA-F]{40}")
_TAKEN: Final = ("flower.log", "superlink.log", "dashboard.log")  # logs of other processes in a run's folder
_HOST: Final = re.compile(r"[^\s\"'<>\\^`{|}]+")


def one_of(known: Iterable[str]) -> Callable[[str], str]:
    """A check that accepts only the known names, and otherwise suggests the nearest."""
    names = tuple(known)

    def check(name: str) -> str:
        if name not in names:
            raise ValueError(f"must be one of {', '.join(names)}{did_you_mean(name, names)}")
        return name

    return check


def one_line(text: str) -> str:
    """Text that a run-config, a message and a terminal can carry."""
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
        raise ValueError("must be text of one line, without control characters and in UTF-8")
    return text


def log_name(name: str) -> str:
    """Name of a log beside the other files of a run, none of which it may be, or nothing."""
    if name in (".", "..") or "/" in name or "\\" in name or len(name.encode(errors="replace")) > 200:
        raise ValueError("must be the name of a file, without folders, or empty")
    if name and (not name.lower().endswith(".log") or name.lower() in _TAKEN):
        raise ValueError(f"must be a name that ends with .log, none of {', '.join(_TAKEN)}, or empty")
    return name


def address(text: str) -> str:
    """One account, or nothing."""
    if "," in text:
        raise ValueError("must be empty or one address, not several")
    return _checksummed(text.strip()) if text.strip() else ""


def addresses(text: str) -> str:
    """Accounts separated by commas, or nothing."""
    return ",".join(dict.fromkeys(_checksummed(part) for part in _parts(text)))


def urls(text: str) -> str:
    """HTTP addresses of JSON-RPC endpoints separated by commas, or nothing."""
    for url in _parts(text):
        if url.lower().startswith(("ws://", "wss://")):
            raise ValueError("must be http(s):// addresses; give the node's HTTP address, WebSocket is not spoken")
        try:
            parts = urlsplit(url)
            whole = parts.scheme.lower() in ("http", "https") and parts.port != 0 and _is_host(parts.hostname or "")
        except ValueError:
            whole = False
        if not whole or not _HOST.fullmatch(url):
            raise ValueError("must be empty, or http(s):// addresses, comma-separated")
    return ",".join(_parts(text))


def _is_host(host: str) -> bool:
    """Whether a resolver can be asked for it: no empty or endless label, and numbers that are an address."""
    try:
        host.removesuffix(".").encode("idna")
        if re.fullmatch(r"[0-9.]+", host):
            socket.inet_aton(host)
    except (UnicodeError, OSError):
        return False
    return bool(host)


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _checksummed(text: str) -> str:
    """The address in EIP-55 capitals, which contract libraries require; one in a single case is accepted too."""
    if not _HEX_ADDRESS.fullmatch(text):
        raise ValueError("must be empty, or addresses of 0x and 40 hexadecimal digits, comma-separated")
    from hypergpu_fl.keccak import checksum_address  # most configurations name no address

    digits = text[2:]
    right = checksum_address(bytes.fromhex(digits))
    if text != right and digits not in (digits.lower(), digits.upper()):
        raise ValueError(f"must be written in the capitals of its checksum (EIP-55); is a digit wrong? if not: {right}")
    return right
