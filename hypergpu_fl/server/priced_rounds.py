"""What pricing a round needs of the rounds before it, on disk: the models that they began from.

Names used here: P = values of the model.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import numpy as np

from strategies.model.layout import Vector

MOVEMENTS: Final = 6  # the last ones, each by itself; all earlier ones count as a single one
LARGEST_BYTES: Final = 1 << 29  # of movements in memory at once


class PricedRounds:
    """The models that rounds began from: the first one's, and the last few's.

    Parameters
    ----------
    folder : Path
        Made if need be. Files of rounds after ``last_round``, which were lost, are removed.
    last_round : int
        The newest that is in the books.
    """

    def __init__(self, folder: Path, *, last_round: int) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._bases = sorted(int(path.stem) for path in folder.glob("*.npy"))
        for number in [number for number in self._bases if number > last_round]:
            self._path(number).unlink()
            self._bases.remove(number)

    def movements(self, number: int, base_P: Vector) -> list[Vector]:
        """How the model has moved until round ``number`` began from ``base_P``, the last movement first."""
        if number not in self._bases:
            self._write(number, base_P)
        most = max(1, min(MOVEMENTS, LARGEST_BYTES // (4 * max(1, base_P.size)) - 1))
        models = [base_P]
        for earlier in reversed(self._bases[:-1][-most:]):
            models.append(np.load(self._path(earlier), mmap_mode="r"))
        if len(self._bases) > most + 1:
            models.append(np.load(self._path(self._bases[0]), mmap_mode="r"))
        moved = [newer - older for newer, older in zip(models, models[1:], strict=False)]
        return [movement_P for movement_P in moved if movement_P.any()]

    def _write(self, number: int, base_P: Vector) -> None:
        draft = self._folder / f".{number:08d}"
        with draft.open("wb") as stream:
            np.save(stream, base_P)
        os.replace(draft, self._path(number))
        self._bases.append(number)
        for old in self._bases[1 : -MOVEMENTS - 1]:
            self._path(old).unlink()
            self._bases.remove(old)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:08d}.npy"
