"""Quantiles of columns. Numpy's own functions would take longer, for a thousand values, than the rest of a plan.

Both search for one place and take its neighbour by an extreme: for two places numpy leaves its vector instructions.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def median(values: Floats) -> float:
    """``numpy.median`` of at least one number, all finite, equal to the last bit."""
    middle = values.size // 2
    found = np.partition(values, middle)
    if values.size % 2:
        return float(found[middle])
    return float((found[:middle].max() + found[middle]) / 2)


def quantile(values: Floats, share: float) -> float:
    """``numpy.quantile`` of at least one number, all finite."""
    place = share * (values.size - 1)
    low = math.floor(place)
    found = np.partition(values, low)
    above = found[low + 1 :].min() if place > low else found[low]
    return float(found[low] + (above - found[low]) * (place - low))
