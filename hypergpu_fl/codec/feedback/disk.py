"""Vectors that a node keeps on disk between messages, since Flower runs each message in its own process.

Files hold, little-endian: magic ``HGPV``, the first half of the layout's hash (16), a tag (8), a number
(int64), the count of values (uint64), checksum of all the rest (4), float32 values. They are written to a
temporary name, synced and renamed, so a reader finds the old file or the new one and nothing between.

All files of one (run, node, model) lie in one folder whose name is a hash, so that the names others give their runs
never become paths.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import mmap
import os
import shutil
import struct
from pathlib import Path

import numpy as np

from hypergpu_fl.codec.errors import ResidualRefused
from hypergpu_fl.codec.format.checksum import checksum
from hypergpu_fl.files import private_folder, replacing
from strategies.durable import sync
from strategies.model.layout import Vector

_LOG = logging.getLogger(__name__)
_HEADER = struct.Struct("<4s16s8sqQ")
_CHECKSUM = struct.Struct("<I")
_MAGIC = b"HGPV"
_PREFIX = _HEADER.size + _CHECKSUM.size


class NodeFolder:
    """The files of one (run, node, model) below ``root``, where all of them together stay within ``max_bytes``."""

    def __init__(self, root: Path, run: str, node: str, model_hash: bytes, max_bytes: int) -> None:
        key = hashlib.sha256(b"\0".join([run.encode(), node.encode(), model_hash])).hexdigest()[:32]
        self._root, self.path = root, root / key
        self._model, self._max_bytes = model_hash[:16], max_bytes

    def write(self, name: str, vector_P: Vector, number: int, tag: bytes = bytes(8)) -> None:
        """Replace a file as a whole, after making room by removing other folders, longest unused first.

        Raises
        ------
        ResidualRefused
            If the file cannot fit even so, or the disk refuses it.
        """
        self._make_room(_PREFIX + vector_P.nbytes)
        values = np.ascontiguousarray(vector_P, dtype="<f4")
        header = _HEADER.pack(_MAGIC, self._model, tag, number, values.size)
        try:
            private_folder(self.path)
            with replacing(self.path / name, synced=True) as draft, draft.open("wb") as file:
                file.write(header + _CHECKSUM.pack(checksum(header, values.data)))
                file.write(values.data)
        except OSError as error:
            raise ResidualRefused(
                f"this node cannot keep its state: {error.strerror}: {self.path}",
                "make room there, or start the SuperNode with another state-dir",
            ) from error

    def read(self, name: str, size: int) -> tuple[Vector, int, bytes] | None:
        """Vector of ``size`` values, number and tag; None if there is no such file.

        A file that is damaged, or of another model, is removed with a warning: the node then starts afresh.
        """
        path = self.path / name
        if not path.exists():
            return None
        fault = ""
        with path.open("rb") as file:
            prefix = file.read(_PREFIX)
            if os.fstat(file.fileno()).st_size != _PREFIX + 4 * size or len(prefix) != _PREFIX:
                fault = f"is not of {size} values"
            else:
                magic, model, tag, number, count = _HEADER.unpack_from(prefix)
                # Mapped, not copied: no memory of its own. Files are replaced and never written to, so it stays valid.
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
                vector_P = np.frombuffer(mapped, dtype="<f4", count=size, offset=_PREFIX)
                (stated,) = _CHECKSUM.unpack_from(prefix, _HEADER.size)
                if magic != _MAGIC or model != self._model or count != size:
                    fault = "is of another format or model"
                elif checksum(prefix[: _HEADER.size], vector_P.data) != stated:
                    fault = "has a wrong checksum"
        if fault:
            path.unlink()
            _LOG.warning("file %r of this node %s; it was removed, and the node starts afresh", name, fault)
            return None
        return vector_P, number, tag

    def rename(self, old: str, new: str) -> None:
        """Let a file take the place of another, atomically."""
        os.replace(self.path / old, self.path / new)
        sync(self.path)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        (self.path / name).unlink(missing_ok=True)

    def _make_room(self, wanted: int) -> None:
        sizes = {folder: _size(folder) for folder in self._root.iterdir()} if self._root.is_dir() else {}
        free = self._max_bytes - sum(sizes.values())
        others = sorted((f for f in sizes if f != self.path), key=_last_used)
        while wanted > free and others:
            folder = others.pop(0)
            shutil.rmtree(folder, ignore_errors=True)
            free += sizes[folder] - _size(folder)  # nothing, if it could not be removed
        if wanted > free:
            raise ResidualRefused(
                f"{wanted} bytes do not fit into {self._max_bytes} that the node may keep", "raise the bound"
            )


def _size(folder: Path) -> int:
    total = 0
    with contextlib.suppress(OSError):  # another process of the node has just removed the folder
        for path in folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another process of the node has just renamed it
                total += path.stat().st_size
    return total


def _last_used(folder: Path) -> float:
    with contextlib.suppress(OSError):  # likewise
        return folder.stat().st_mtime
    return 0.0
