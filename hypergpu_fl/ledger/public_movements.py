"""What everybody could know: the model's own movements so far, and an update without what it repeats of them.

Names used here: P = values of the model, M = movements, S = values that an update holds.

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
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hypergpu_fl.ledger.aumann_shapley import Gradient64
from strategies.model.layout import Run, Vector

BLOCK: Final = 1 << 18  # values looked at at once
SINGULAR: Final = 1e-7  # of the largest, below which a direction of the span counts as none
HARDLY_ELSE: Final = 0.75  # of an update's square in the span of all movements, from which on it is nothing else


@dataclass(frozen=True, slots=True)
class Slopes:
    """``<gradient, update>``, of all of it and of what is left without its part in the span."""

    whole: float
    own: float


class Span:
    """The span of some movements, and a gradient to hold updates against.

    Parameters
    ----------
    movements : Sequence[Vector]
        M vectors of length P, the last one first.
    gradient_P : NDArray
        Zero where nothing is to be priced.
    still : tuple of runs
        Where a model is measured, not learned: no movement there.
    """

    def __init__(self, movements: Sequence[Vector], gradient_P: Gradient64, *, still: tuple[Run, ...] = ()) -> None:
        self._gradient_P = gradient_P
        self._movements_PM = np.zeros((gradient_P.size, len(movements)), dtype=np.float32)
        for number, movement_P in enumerate(movements):
            scale = float(np.linalg.norm(movement_P)) or 1.0  # lest a short movement look like none
            self._movements_PM[:, number] = movement_P / np.float32(scale)
        for start, stop in still:
            self._movements_PM[start:stop] = 0
        self._everywhere: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None

    def slopes(self, index_S: NDArray[np.uint32] | None, value_S: Vector, *, later: int = 0) -> Slopes:
        """Slopes of the update with these values in these places; None: everywhere.

        The first ``later`` movements came after the model that it started from.
        """
        if index_S is None and np.count_nonzero(value_S) < value_S.size:
            index_S = np.flatnonzero(value_S).astype(np.uint32)
            value_S = value_S[index_S]
        count = self._movements_PM.shape[1]
        products = None if index_S is not None else self._everywhere
        gram_MM, slope_M = products or (np.zeros((count, count)), np.zeros(count))
        update_M, whole, square = np.zeros(count), 0.0, 0.0
        for start in range(0, value_S.size, BLOCK):
            value = value_S[start : start + BLOCK].astype(np.float64)
            where = slice(start, start + BLOCK) if index_S is None else index_S[start : start + BLOCK]
            gradient, movements = self._gradient_P[where], self._movements_PM[where].astype(np.float64)
            whole += float(gradient @ value)
            square += float(value @ value)
            update_M += value @ movements
            if products is None:
                gram_MM += movements.T @ movements
                slope_M += gradient @ movements
        if index_S is None:
            self._everywhere = gram_MM, slope_M
        if not count or not np.isfinite(whole):
            return Slopes(whole, whole)
        share_M = np.linalg.lstsq(gram_MM, update_M, rcond=SINGULAR)[0]
        if later and float(share_M @ update_M) < HARDLY_ELSE * square:
            share_M[:later] = 0
            share_M[later:] = np.linalg.lstsq(gram_MM[later:, later:], update_M[later:], rcond=SINGULAR)[0]
        return Slopes(whole, whole - float(share_M @ slope_M))
