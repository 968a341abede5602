"""The coordinator's key of a run without a real chain: made for the run, kept beside its books, in none of its exports.

A key that others knew could sign other books in the run's name.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

from hypergpu_fl.chain.errors import Misconfigured
from hypergpu_fl.chain.signer import KeySigner

KEY_FILE: Final = "coordinator.key"


def run_key(run_dir: Path, *, address: str = "") -> KeySigner:
    """Return the key of the run in `run_dir`.

    Parameters
    ----------
    run_dir : Path
        The run's folder.
    address : str
        Whose key it must be; empty for a run without books yet, whose key is made if need be.

    Raises
    ------
    Misconfigured
        If the key is missing, or another one.
    """
    path = run_dir / KEY_FILE
    if not address and not path.exists():
        _write(path, secrets.token_bytes(32).hex())
    try:
        signer = KeySigner.from_hex(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        raise Misconfigured(f"{path} holds no key", "put the run's key back, or start a new run") from None
    if address and signer.address != address:
        raise Misconfigured(
            f"{path} is the key of {signer.address}, the run's coordinator is {address}",
            "put the run's key back, or start a new run",
        )
    return signer


def _write(path: Path, text: str) -> None:
    draft = path.with_suffix(".tmp")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
