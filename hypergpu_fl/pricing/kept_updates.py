"""The updates that counted, kept so that a stranger can recompute the run: one folder a round, files named by hash.

=====================  ==========================================================================
``blobs/open/``        updates of the round under way, each under its SHA-256
``blobs/00000012/``    those of round 12
``blobs/first.npy``    the first model's values
``blobs/after-*.npz``  the whole state of the model after a round, where recomputing can begin
``manifest.json``      the round after which all updates are kept, and the limit in bytes
=====================  ==========================================================================

Beyond the limit the oldest rounds are removed whole, and only if a later model is there to begin from: whenever updates
of half the limit have gathered since the last kept model, the model is kept again, and all that lies before the
last-but-one kept model is removed.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any, Final

import numpy as np

from hypergpu_fl.files import write_whole
from hypergpu_fl.ledger.blobs import Blobs
from strategies.model.global_model import GlobalModel
from strategies.model.layout import Vector

MANIFEST: Final = "manifest.json"
FIRST: Final = "first.npy"
STATE: Final = "state"
SAME: Final = "same"  # names of vectors that are written under another name
_OPEN: Final = "open"


def round_folder(folder: Path, round: int) -> Path:
    """Folder of a round's updates."""
    return folder / f"{round:08d}"


def model_after(folder: Path, round: int) -> Path:
    """File of the model's whole state after a round."""
    return folder / f"after-{round:08d}.npz"


class KeptUpdates:
    """Keeps the updates of rounds.

    Parameters
    ----------
    folder : Path
        Created if needed. Files of rounds after ``last_round`` are removed, because the books lost these rounds.
    limit_bytes : int
        Most bytes of updates to keep; with 0 no update outlives the pricing of its round.
    last_round : int
        The newest round in the books.
    """

    def __init__(self, folder: Path, *, limit_bytes: int, last_round: int) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        self.open = Blobs(folder / _OPEN)
        self._drop_open()
        self._rounds: dict[int, int] = {}  # bytes of each round's updates
        for path in folder.glob("[0-9]*"):
            if int(path.name) > last_round:
                shutil.rmtree(path)
            else:
                self._rounds[int(path.name)] = sum(file.stat().st_size for file in path.iterdir())
        self._models = sorted(int(path.stem.removeprefix("after-")) for path in folder.glob("after-*.npz"))
        for lost in [round for round in self._models if round > last_round]:
            model_after(folder, lost).unlink()
            self._models.remove(lost)

    def begin(self, first_P: Vector) -> None:
        """Keep the first model."""
        if self._limit_bytes:
            self._folder.mkdir(parents=True, exist_ok=True)
            np.save(self._folder / FIRST, first_P)
            self._write()

    def closed(self, round: int, model: GlobalModel) -> None:
        """Keep the open round's updates as those of ``round``; ``model`` is the model after that round."""
        opened, kept = self._folder / _OPEN, round_folder(self._folder, round)
        if not self._limit_bytes:
            self._drop_open()
            return
        opened.mkdir(parents=True, exist_ok=True)
        opened.rename(kept)
        self._rounds[round] = sum(file.stat().st_size for file in kept.iterdir())
        gathered = sum(size for other, size in self._rounds.items() if other > (self._models or [0])[-1])
        if gathered >= self._limit_bytes / 2:
            state, vectors = model.state()
            first: dict[int, str] = {}  # a version that is the good or the best one, too, is written once
            names = {name: first.setdefault(id(vector), name) for name, vector in vectors.items()}
            told = {STATE: state, SAME: {name: written for name, written in names.items() if name != written}}
            with model_after(self._folder, round).open("wb") as stream:
                save: Any = np.savez  # its type stub does not allow arrays by arbitrary names beside allow_pickle
                save(
                    stream,
                    **{name: np.array(json.dumps(content)) for name, content in told.items()},
                    **{name: vectors[name] for name in first.values()},
                )
            self._models.append(round)
            for old in self._models[:-2]:
                model_after(self._folder, old).unlink()
                self._models.remove(old)
            if len(self._models) > 1:
                for other in [other for other in self._rounds if other <= self._models[0]]:
                    shutil.rmtree(round_folder(self._folder, other))
                    del self._rounds[other]
            self._write()

    def _drop_open(self) -> None:
        with contextlib.suppress(FileNotFoundError):  # of a round without updates
            shutil.rmtree(self._folder / _OPEN)

    def _write(self) -> None:
        begin = self._models[0] if len(self._models) > 1 else 0
        content: dict[str, Any] = {"after_round": begin, "limit_bytes": self._limit_bytes}
        write_whole(self._folder / MANIFEST, json.dumps(content) + "\n")
