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
degree six along the path. As it is linear in ``delta_i``, one averaged gradient serves all updates: three gradients a
round, however many updates there are, and one inner product each.

Late updates, and such against older bases, are priced by what they did to the model that they were added to; quantised
ones as they were decoded. What follows the plain mean, a server optimiser or an average of versions, is not priced.

Limits: the loss is that of one validation set. Where it is not smooth along the path the three nodes miss something,
which shows in the books as a gap between the sum of the values and the two losses. Statistics such as BatchNorm's move
along the path, but no gradient is taken by them, so their part of the improvement belongs to nobody.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from strategies.model.layout import Vector

VERSION: Final = "aumann_shapley/1"
_HALF_WIDTH: Final = 0.5 * (3 / 5) ** 0.5
NODES: Final = (0.5 - _HALF_WIDTH, 0.5, 0.5 + _HALF_WIDTH)
WEIGHTS: Final = (5 / 18, 8 / 18, 5 / 18)

Gradient64 = NDArray[np.float64]


def path_gradient(gradient: Callable[[Vector], Vector], base_P: Vector, moved_P: Vector) -> Gradient64:
    """``integral_0^1 grad L(base + t moved) dt`` by Gauss's quadrature; ``gradient`` gives that of L at a model."""
    total_P = np.zeros(base_P.size, dtype=np.float64)
    for node, weight in zip(NODES, WEIGHTS, strict=True):
        total_P += weight * gradient(base_P + np.float32(node) * moved_P).astype(np.float64)
    return total_P
