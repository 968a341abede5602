r"""What each update of a round brought: its Aumann-Shapley value along the round's own step.

Names used here: P = values of the model, i = an update of the round, L = validation loss.

The round's plain step leads from its base to ``base + m``, ``m = sum_i w_i delta_i``, with ``w_i`` the coefficients
that were really applied (weights, normalised by local steps, or what a robust rule let through). By the chain rule

.. math:: L(base) - L(base + m) = \sum_i \phi_i, \qquad
          \phi_i = -w_i \int_0^1 \langle \nabla L(base + t m), \delta_i \rangle dt

This is the price of Aumann and Shapley ("Values of Non-Atomic Games", 1974; Billera and Heath 1982): the limit of the
Shapley value when every update is cut into infinitely many pieces that join in even proportions. The values add up to
the round's true improvement, equal updates at equal coefficients have equal values, and an update that does nothing
has the value 0. The integral is computed by Gauss-Legendre quadrature with three nodes, which is exact where the loss
along the path is a polynomial of degree six or less. That takes three gradients a round, however many updates there
are, and three inner products for each update.

A late update, or one that was trained from an older model, is priced by its effect on the model that it was added to.
A quantised update is priced as decoded. What the server does after the plain mean, such as a server optimiser or an
average of versions, is not priced.

An update may help at the beginning of the step and harm at its end: its direction was right, and the coordinator gave
it too much weight. An update whose value is negative although it helped at first is therefore credited with what it
brought up to the point where it began to harm. A random change helps or harms a little by chance, so an effect no
larger than that counts as nothing. `credited` computes what is paid for; the values themselves stay as they are.

Limits: the loss is that of one validation set. Where the loss is not smooth along the path, the three nodes miss part
of it, and the books show a gap between the sum of the values and the difference of the two losses. So they do where a
gradient is not finite at one or two of the nodes: the others stand for it. If none is finite, nobody scores.
Statistics such as BatchNorm's move along the path too, but have no gradient, so their part of the improvement belongs
to nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from strategies.model.layout import Vector

_HALF_WIDTH: Final = 0.5 * (3 / 5) ** 0.5
NODES: Final = (0.5 - _HALF_WIDTH, 0.5, 0.5 + _HALF_WIDTH)
WEIGHTS: Final = (5 / 18, 8 / 18, 5 / 18)
BEYOND_CHANCE: Final = 3.0  # standard deviations

Gradient64 = NDArray[np.float64]


def path_gradients(gradient: Callable[[Vector], Vector], base_P: Vector, moved_P: Vector) -> list[Gradient64]:
    """Gradients of L at the three nodes between ``base`` and ``base + moved``; ``gradient`` computes one at a model.

    The weighted mean of the others stands for one that is not finite, so that it changes no value more than it must.
    """
    found = [gradient(base_P + np.float32(node) * moved_P).astype(np.float64) for node in NODES]
    finite = [bool(np.isfinite(each_P).all()) for each_P in found]
    if all(finite) or not any(finite):
        return found
    known = [node for node, sound in enumerate(finite) if sound]
    mean_P = np.average([found[node] for node in known], axis=0, weights=[WEIGHTS[node] for node in known])
    return [each_P if sound else mean_P for each_P, sound in zip(found, finite, strict=True)]


def value(gains: Sequence[float]) -> float:
    """``phi_i`` from the ``gains``: how fast the update's part of the step lowers the loss at each of the nodes."""
    return float(np.dot(WEIGHTS, gains))


def credited(gains: Sequence[float], chances: Sequence[float]) -> float:
    """What an update is paid for: its value or, if that is negative, what it brought before it began to harm.

    Either counts only if it exceeds `BEYOND_CHANCE` times ``chances``, the standard deviations of the gains of random
    updates with the same norm in the same places. Between the nodes the gain is the parabola through them.
    """
    whole = value(gains)
    if not (np.isfinite(gains).all() and np.isfinite(chances).all()):
        return whole
    if whole < 0 and gains[0] > BEYOND_CHANCE * chances[0]:
        parabola = np.polyfit(NODES, gains, 2)
        turns = [root.real for root in np.roots(parabola) if abs(root.imag) < 1e-9 and 0 < root.real < 1]
        return max((float(np.polyval(np.polyint(parabola), turn)) for turn in turns), default=whole)
    return whole if abs(whole) > BEYOND_CHANCE * value(chances) else 0.0
