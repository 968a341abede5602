"""Connections to SuperLinks, by name, in this user's Flower configuration."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from hypergpu_fl.errors import UsageError
from strategies.spelling import nearest

CONNECTION: Final = "deployed"  # what `hypergpu server start` adds, and the documents' commands name
_FLOWERS_OWN: Final = ("local", "supergrid")  # Flower writes these where a user has no configuration yet


def require_connection(name: str, environ: Mapping[str, str]) -> None:
    """Check that Flower knows a connection, before anything is made or sent.

    Raises
    ------
    UsageError
        If it does not; names the one that was probably meant.
    """
    file = _file(environ)
    text = _read(file)
    known = sorted(_connections(file, text)) if text else _FLOWERS_OWN
    if name not in known:
        near = nearest(name, known)
        raise UsageError(
            f"{file} has no connection {name!r}",
            f"did you mean {near!r}?"
            if near
            else f"use one of: {', '.join(known)}; `hypergpu server start` adds one on the server's host, and "
            "deploy/README.md shows how to write one on another",
        )


def note_connection(name: str, address: str, authority: Path) -> None:
    """Add a connection to this user's Flower configuration, unless it has one of this name.

    Raises
    ------
    UsageError
        If it has one of this name for another SuperLink.
    """
    file = _file(os.environ)
    text = _read(file)
    wanted = {"address": address, "root-certificates": str(authority)}
    there = _connections(file, text).get(name)
    if there is None:
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"[superlink.{name}]", *(f'{key} = "{value}"' for key, value in wanted.items())]
        file.write_text(text + ("\n" if text else "") + "\n".join(lines) + "\n", encoding="utf-8")
    elif any(there.get(key) != value for key, value in wanted.items()):
        raise UsageError(f"{file} has a connection {name!r} to {there.get('address')}", "give another --connection")


def _file(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("FLWR_HOME") or Path.home() / ".flwr").expanduser() / "config.toml"


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8-sig") if file.exists() else ""


def _connections(file: Path, text: str) -> dict[str, dict[str, Any]]:
    try:
        found = tomllib.loads(text).get("superlink", {})
    except ValueError as error:
        raise UsageError(f"{file} cannot be read: {error}", "correct it, or move it away") from None
    return {name: settings for name, settings in found.items() if isinstance(settings, dict)}
