"""The model's own recent movements, which every node knows, and an update without the part that repeats them.

Names used here: P = values of the model, M = movements, C = movements and gradients, S = values that an update holds.

A node that merely sends back the direction in which the model has been moving improves the model too, because training
keeps that direction for a while. But this takes no data and no work. So the part of an update that lies in the span of
the model's last movements is taken out before the update is priced. If an update holds only some of the values, or
zeros, the movements are compared in the places of its other values only: dropping places from a movement is no work
either.

An update from a slow node started from an older model and may point in a direction that the others have found since.
The node could not know of that, so only the movements up to its own base are taken out. The exception is an update
that consists almost entirely of movements, later ones included: then the node held its reply back until it saw where
the model went.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hypergpu_fl.ledger.aumann_shapley import Gradient64
from strategies.model.layout import Run, Vector

BLOCK: Final = 1 << 16  # values processed at a time
SINGULAR: Final = 1e-7  # a direction of the span whose singular value is below this part of the largest is ignored
HARDLY_ELSE: Final = 0.75  # share of an update's squared norm in the span from which on it counts as a mere movement


@dataclass(frozen=True, slots=True)
class Slopes:
    """``<gradient, update>`` for each gradient: of the ``whole`` update, and of its ``own`` part outside the span.

    ``chance`` is the standard deviation of that product for a random update with the same norm in the same places.
    """

    whole: NDArray[np.float64]
    own: NDArray[np.float64]
    chance: NDArray[np.float64]


class Span:
    """The span of some movements, and the gradients that updates are multiplied with.

    Parameters
    ----------
    movements : Sequence[Vector]
        M vectors of length P, the newest first.
    gradients : Sequence[NDArray]
        Vectors of length P.
    still : tuple of runs
        Places of statistics, which are measured and not learned; movements there are ignored.
    """

    def __init__(
        self, movements: Sequence[Vector], gradients: Sequence[Gradient64], *, still: tuple[Run, ...] = ()
    ) -> None:
        # One row for each value, with the gradients as the last columns: an update that holds few values then reads few
        # rows. Columns are scaled to length 1, so that a short movement is not mistaken for none.
        columns: list[NDArray[Any]] = [*movements, *gradients]
        size = gradients[0].size
        norms = [float(np.linalg.norm(column)) or 1.0 for column in columns]
        self._movements = len(movements)
        self._steepness = np.array(norms[self._movements :])
        self._rows_PC = np.empty((size, len(columns)), dtype=np.float32)
        for start in range(0, size, BLOCK):
            for number, (column, norm) in enumerate(zip(columns, norms, strict=True)):
                self._rows_PC[start : start + BLOCK, number] = column[start : start + BLOCK] / norm
        for start, stop in still:
            self._rows_PC[start:stop] = 0
        self._everywhere: NDArray[np.float64] | None = None

    def slopes(self, index_S: NDArray[np.uint32] | None, value_S: Vector, *, later: int = 0) -> Slopes:
        """Slopes of the update that holds ``value_S`` in the places ``index_S``; None means in all P places.

        The first ``later`` movements came after the model that the update started from.
        """
        if index_S is None and np.count_nonzero(value_S) < value_S.size:
            index_S = np.flatnonzero(value_S).astype(np.uint32)
            value_S = value_S[index_S]
        count = self._rows_PC.shape[1]
        known = None if index_S is not None else self._everywhere
        gram_CC, update_C, square = np.zeros((count, count)), np.zeros(count), 0.0
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is worth nothing
            for start in range(0, value_S.size, BLOCK):
                value = value_S[start : start + BLOCK]
                where = slice(start, start + BLOCK) if index_S is None else index_S[start : start + BLOCK]
                rows = self._rows_PC[where]
                update_C += value @ rows
                square += float(value @ value)
                if known is None:
                    gram_CC += rows.T @ rows
        if index_S is None:
            gram_CC = self._everywhere = gram_CC if known is None else known
        known_M = slice(None, self._movements)
        whole = update_C[self._movements :] * self._steepness
        steep = np.diag(gram_CC)[self._movements :] * square / max(1, value_S.size)
        chance = np.sqrt(steep) * self._steepness
        if not self._movements or not (np.isfinite(update_C).all() and np.isfinite(gram_CC).all()):
            return Slopes(whole, whole, chance)
        gram_MM, update_M = gram_CC[known_M, known_M], update_C[known_M]
        share_M = np.linalg.lstsq(gram_MM, update_M, rcond=SINGULAR)[0]
        if later and float(share_M @ update_M) < HARDLY_ELSE * square:
            share_M[:later] = 0
            share_M[later:] = np.linalg.lstsq(gram_MM[later:, later:], update_M[later:], rcond=SINGULAR)[0]
        own = whole - (gram_CC[self._movements :, known_M] @ share_M) * self._steepness
        return Slopes(whole, own, chance)
