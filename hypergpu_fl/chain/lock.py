"""One writer for each key: two that count nonces for the same account would overwrite each other's transactions."""

from __future__ import annotations

import contextlib
from pathlib import Path

from hypergpu_fl.chain.errors import Misconfigured
from hypergpu_fl.files import exclusive


class KeyLock(contextlib.ExitStack):
    """Exclusive lock on a file that names chain and address, held until ``close`` or the end of a ``with`` block.

    Parameters
    ----------
    folder : Path
        Folder of the lock files; created if needed.
    chain_id : int
        The chain.
    address : str
        The key's address.

    Raises
    ------
    Misconfigured
        If another process holds it.
    """

    def __init__(self, folder: Path, chain_id: int, address: str) -> None:
        super().__init__()
        folder.mkdir(parents=True, exist_ok=True)
        taken = Misconfigured(
            f"another process sends with the key of {address} on chain {chain_id}",
            "wait until it ends, or use another key",
        )
        self.enter_context(exclusive(folder / f"{chain_id}-{address.lower()}.lock", taken))
