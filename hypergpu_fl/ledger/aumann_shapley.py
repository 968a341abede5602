r"""What each update of a round brought: its Aumann-Shapley value along the round's own step.

Names used here: P = values of the model, i = an update of the round, L = validation loss.

The round's plain step leads from its base to ``base + m``, ``m = sum_i w_i delta_i``, with ``w_i`` the coefficients
that were really applied (weights, normalised by local steps, or what a robust rule let through). By the chain rule

.. math:: L(base) - L(base + m) = \sum_i \phi_i, \qquad
          \phi_i = -w_i \int_0^1 \langle \nabla L(base + t m), \delta_i \rangle dt

This is the price of Aumann and Shapley ("Values of Non-Atomic Games", 1974; Billera and Heath 1982): what the Shapley
value comes to when every update is cut into infinitely many pieces which join in even proportions. The values add up
to the round's true improvement, equal updates at equal coefficients get the same, and an update that does nothing gets
nothing. The integral is taken by Gauss's quadrature with three nodes, exact for losses that are polynomials of up to
degree six along the path: three gradients a round, however many updates there are, and three inner products each.

Late updates, and such against older bases, are priced by what they did to the model that they were added to; quantised
ones as they were decoded. What follows the plain mean, a server optimiser or an average of versions, is not priced.

An update may help at the beginning of the step and harm at its end: it was right, and was given too much weight. The
weight is the coordinator's choice. So an update whose value is negative, though it helped at first, is credited with
what it brought up to where it began to harm. And a random change helps or harms by chance, a little; what is no more
than that counts as nothing (`credited`). That is what is paid for; the values stay as they are.

Limits: the loss is that of one validation set. Where it is not smooth along the path the three nodes miss something,
which shows in the books as a gap between the sum of the values and the two losses. Statistics such as BatchNorm's move
along the path, but no gradient is taken by them, so their part of the improvement belongs to nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from strategies.model.layout import Vector

VERSION: Final = "aumann_shapley/1"
_HALF_WIDTH: Final = 0.5 * (3 / 5) ** 0.5
NODES: Final = (0.5 - _HALF_WIDTH, 0.5, 0.5 + _HALF_WIDTH)
WEIGHTS: Final = (5 / 18, 8 / 18, 5 / 18)
BEYOND_CHANCE: Final = 3.0  # standard deviations

Gradient64 = NDArray[np.float64]


def path_gradients(gradient: Callable[[Vector], Vector], base_P: Vector, moved_P: Vector) -> list[Gradient64]:
    """Gradients at the three nodes between ``base`` and ``base + moved``; ``gradient`` gives that of L at a model."""
    return [gradient(base_P + np.float32(node) * moved_P).astype(np.float64) for node in NODES]


def value(gains: Sequence[float]) -> float:
    """``phi_i``, from how fast the update's part of the step lowers the loss at each of the nodes."""
    return float(np.dot(WEIGHTS, gains))


def credited(gains: Sequence[float], chances: Sequence[float]) -> float:
    """What an update is paid for: its value, or if that is negative, what it brought before it began to harm.

    Either counts only beyond what chance brings: ``chances`` are the standard deviations of the gains of random updates
    as long and in the same places, and less than `BEYOND_CHANCE` of them is nothing. Between the nodes the gain is
    taken as the parabola through them.
    """
    whole = value(gains)
    if not (np.isfinite(gains).all() and np.isfinite(chances).all()):
        return whole
    if whole < 0 and gains[0] > BEYOND_CHANCE * chances[0]:
        parabola = np.polyfit(NODES, gains, 2)
        turns = [root.real for root in np.roots(parabola) if abs(root.imag) < 1e-9 and 0 < root.real < 1]
        return max((float(np.polyval(np.polyint(parabola), turn)) for turn in turns), default=whole)
    return whole if abs(whole) > BEYOND_CHANCE * value(chances) else 0.0
