"""What a node's data count for, where its word alone would decide.

Nobody can see how many examples a node has. So its claim is cut to a bound that no claim can move: a node counts for at
most ``LARGEST_SHARE`` times an even share of all that counts.

Names used here: N = nodes.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

FURTHEST_WORK: Final = 10.0  # times the median, that a node's claim may make its passes take
LARGEST_SHARE: Final = 4 / 3  # times an even one; with what a run's last rounds still owe a node, below 1.5


def most_agreed(claimed_N: NDArray[np.int64]) -> float:
    """The most that one of these claims may count for, infinite where none is cut.

    That is ``c = LARGEST_SHARE * sum(min(claimed, c)) / N``. What was once found above the bound stays so, for it only
    falls; else a claim that equals it up to rounding would be in and out for ever.
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
