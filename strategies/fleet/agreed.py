"""How many examples a node counts for, when only its own word says how many it has.

Nobody can check a claim, so claims are cut to a bound that no single claim can move: a node counts for at most
``LARGEST_SHARE`` times an even share of everything that counts.

Names used here: N = nodes.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

FURTHEST_WORK: Final = 10.0  # a node's claim may make its passes this many times as long as the median pass
LARGEST_SHARE: Final = 4 / 3  # times an even share; below 1.5 even with what the last rounds still owe a node


def most_agreed(claimed_N: NDArray[np.int64]) -> float:
    """The most that one of these claims may count for; infinite where none is cut.

    That is ``c = LARGEST_SHARE * sum(min(claimed, c)) / N``. The bound only falls from step to step, so a claim once
    above it stays above it. Otherwise a claim equal to the bound up to rounding would move in and out for ever.
    """
    if not claimed_N.size:
        return math.inf
    claims_N = claimed_N.astype(np.float64)
    above_N = np.zeros(claims_N.size, np.bool_)
    while True:
        cap = LARGEST_SHARE * float(claims_N[~above_N].sum()) / (claims_N.size - LARGEST_SHARE * int(above_N.sum()))
        found_N = above_N | (claims_N > cap)
        if (found_N == above_N).all():
            return cap if above_N.any() else math.inf
        above_N = found_N
