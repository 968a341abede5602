"""The coordinator's key of a run without a real chain: made for that run and kept beside its books, never exported.

Whoever else knew the key could sign other books in the run's name.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Final

from hypergpu_fl.chain.errors import Misconfigured
from hypergpu_fl.chain.signer import KeySigner
from hypergpu_fl.files import write_whole

KEY_FILE: Final = "coordinator.key"


def run_key(run_dir: Path, *, address: str = "") -> KeySigner:
    """Return the key of the run in `run_dir`.

    Parameters
    ----------
    run_dir : Path
        The run's folder.
    address : str
        Address of the key; empty for a run without books, for which a missing key is made.

    Raises
    ------
    Misconfigured
        If the key is missing, cannot be read, or has another address.
    """
    path = run_dir / KEY_FILE
    if not address and not path.exists():
        write_whole(path, secrets.token_bytes(32).hex() + "\n", mode=0o600)
    try:
        signer = KeySigner.from_hex(path.read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        raise Misconfigured(f"{path} holds no key", "put the run's key back, or start a new run") from None
    except OSError as error:  # the key may be there
        remedy = "let this user read it, or work as the user whose run it is"
        raise Misconfigured(f"{path} cannot be read: {error.strerror}", remedy) from None
    if address and signer.address != address:
        raise Misconfigured(
            f"{path} is the key of {signer.address}, the run's coordinator is {address}",
            "put the run's key back, or start a new run",
        )
    return signer
