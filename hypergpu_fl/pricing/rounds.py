"""What pricing needs of earlier rounds, on disk: the models that they began from, and what their updates were credited.

Names used here: P = values of the model.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from hypergpu_fl.files import replacing
from hypergpu_fl.ledger.shared_work import SharedWork
from strategies.model.layout import Vector

MOVEMENTS: Final = 6  # the last ones, one by one; all earlier ones together count as one more
LARGEST_BYTES: Final = 1 << 29  # most bytes of movements in memory at once


@dataclass(frozen=True, slots=True)
class ModelPath:
    """How the model came to where it is: its movements, newest first, and the hashes of the models they led to."""

    movements: Sequence[Vector]
    models: Sequence[bytes]

    def since(self, model: bytes) -> int:
        """How many of the movements came after this model; all of them if the model is no longer known."""
        return self.models.index(model) if model in self.models else len(self.movements)


@dataclass(frozen=True, slots=True)
class _Base:
    """The model that a round began from, on disk."""

    round: int
    hash: bytes

    @property
    def name(self) -> str:
        return f"{self.round:08d}-{self.hash.hex()}.npy"

    @classmethod
    def of(cls, file: Path) -> _Base:
        round, _, digest = file.stem.partition("-")
        return cls(int(round), bytes.fromhex(digest))


class PricedRounds:
    """The models that the first and the last few rounds began from, and what updates were credited with.

    Parameters
    ----------
    folder : Path
        Created if needed. Files of rounds after ``last_round`` are removed, because the books lost these rounds.
    last_round : int
        The newest round in the books.
    """

    def __init__(self, folder: Path, *, last_round: int) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        found = sorted((_Base.of(file) for file in folder.glob("*.npy")), key=lambda base: base.round)
        self._bases = [base for base in found if base.round <= last_round]
        for lost in found[len(self._bases) :]:
            (folder / lost.name).unlink()
        self.shared_work = self._restored(last_round)

    def path(self, round: int, base_P: Vector, model: bytes) -> ModelPath:
        """How the model moved until ``round`` began from ``base_P``, whose hash is ``model``.

        Keeps ``base_P`` for later rounds.
        """
        self._write(_Base(round, model), base_P)
        most = max(1, min(MOVEMENTS, LARGEST_BYTES // (4 * max(1, base_P.size)) - 1))
        *earlier, _ = self._bases
        known = [base_P, *(self._read(base) for base in reversed(earlier[-most:]))]
        if len(earlier) > most:
            known.append(self._read(earlier[0]))
        movements = [newer - older for newer, older in zip(known, known[1:], strict=False)]
        return ModelPath(movements, [model, *(base.hash for base in reversed(earlier[-most:]))])

    def save(self, round: int) -> None:
        """Keep what ``round`` credited."""
        state, sketches = self.shared_work.state()
        with replacing(self._credits(round)) as draft, draft.open("wb") as stream:
            np.savez(stream, state=np.array(json.dumps(state)), sketches=sketches)
        self._credits(round - 2).unlink(missing_ok=True)  # what is credited is at most one round ahead of the books

    def _restored(self, last_round: int) -> SharedWork:
        if not self._credits(last_round).is_file():
            return SharedWork()
        with np.load(self._credits(last_round)) as content:
            return SharedWork.restored(json.loads(str(content["state"])), content["sketches"])

    def _credits(self, round: int) -> Path:
        return self._folder / f"{round:08d}.npz"

    def _read(self, base: _Base) -> Vector:
        vector_P: Vector = np.load(self._folder / base.name, mmap_mode="r")
        return vector_P

    def _write(self, base: _Base, base_P: Vector) -> None:
        with replacing(self._folder / base.name) as draft, draft.open("wb") as stream:
            np.save(stream, base_P)
        self._bases.append(base)
        for old in self._bases[1 : -MOVEMENTS - 1]:
            (self._folder / old.name).unlink()
            self._bases.remove(old)
