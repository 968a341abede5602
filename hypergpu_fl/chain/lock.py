"""One writer a key: two processes that count nonces for the same account would overwrite each other's transactions."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType

from hypergpu_fl.chain.errors import Misconfigured


class KeyLock:
    """Exclusive lock on a file that names chain and address; the kernel drops it when the process dies.

    Parameters
    ----------
    folder : Path
        Where lock files lie; made if need be.
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
        folder.mkdir(parents=True, exist_ok=True)
        self._file = os.open(
            folder / f"{chain_id}-{address.lower()}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._file)
            raise Misconfigured(
                f"another process sends with the key of {address} on chain {chain_id}",
                "wait until it ends, or use another key",
            ) from None

    def release(self) -> None:
        """Let go; safe to call twice."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> KeyLock:
        """Hold it for a block."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Let go."""
        self.release()
