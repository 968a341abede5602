"""What everybody could know: the model's own movements so far, and an update without what it repeats of them.

Names used here: P = values of the model, M = movements, C = these and the gradients, S = values that an update holds.

A node that sends back where the model has just been going improves it too, for training goes on in that direction for
a while. It has learnt nothing, and took no data to know it. So the part of an update that lies in the span of the
model's last movements is taken out before the update is priced. Of an update that holds few values, or holds zeros, the
movements are looked at in the places of its other values only: leaving some places out of a movement is no work.

An update from a slow node started from an older model, and points along what the others found since. It could not know
that, so only the movements up to its own base are taken out. Unless it is hardly anything but movements, later ones
too: then somebody kept an order back until another node had told where the model went.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hypergpu_fl.ledger.aumann_shapley import Gradient64
from strategies.model.layout import Run, Vector

BLOCK: Final = 1 << 16  # values looked at at once
SINGULAR: Final = 1e-7  # of the largest, below which a direction of the span counts as none
HARDLY_ELSE: Final = 0.75  # of an update's square in the span of all movements, from which on it is nothing else


@dataclass(frozen=True, slots=True)
class Slopes:
    """``<gradient, update>`` for each gradient: of all of the update, and of it without its part in the span.

    ``chance`` is the standard deviation of that product for a random update as long and in the same places.
    """

    whole: NDArray[np.float64]
    own: NDArray[np.float64]
    chance: NDArray[np.float64]


class Span:
    """The span of some movements, and gradients to hold updates against.

    Parameters
    ----------
    movements : Sequence[Vector]
        M vectors of length P, the last one first.
    gradients : Sequence[NDArray]
        Of length P each.
    still : tuple of runs
        Where a model is measured, not learned: no movement there.
    """

    def __init__(
        self, movements: Sequence[Vector], gradients: Sequence[Gradient64], *, still: tuple[Run, ...] = ()
    ) -> None:
        # One row a value, with the gradients as last columns: an update that holds few values then looks at few rows.
        # Columns have length 1, lest a short movement look like none.
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
        """Slopes of the update with these values in these places; None: everywhere.

        The first ``later`` movements came after the model that it started from.
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
