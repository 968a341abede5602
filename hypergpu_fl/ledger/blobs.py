"""Updates on disk as the nodes sent them, each under the hash that its node signed."""

from __future__ import annotations

from pathlib import Path

from hypergpu_fl.errors import LedgerError
from hypergpu_fl.files import write_whole
from hypergpu_fl.ledger.contribution import hash_blob


class Blobs:
    """A folder of content-addressed blobs: the name of a file is the SHA-256 of what it holds."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, digest: bytes, blob: bytes | memoryview) -> None:
        """Keep a blob whose hash is known."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / digest.hex()
        if not path.exists():
            write_whole(path, blob, synced=False)  # a blob that a crash cut off no longer matches its name

    def get(self, digest: bytes) -> bytes:
        """Read a blob.

        Raises
        ------
        LedgerError
            If it is missing, or its content does not match its name.
        """
        path = self._folder / digest.hex()
        try:
            blob = path.read_bytes()
        except OSError as error:
            raise LedgerError(f"{path} cannot be read: {error.strerror}", "bring back the run's blobs") from None
        if hash_blob(blob) != digest:
            raise LedgerError(f"{path} does not hold what its name says", "bring back the run's blobs")
        return blob

    def drop(self, digest: bytes) -> None:
        """Remove a blob, if it is there."""
        (self._folder / digest.hex()).unlink(missing_ok=True)
