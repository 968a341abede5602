"""Quantiles of columns. Numpy's own functions would take longer, for a thousand values, than the rest of a plan."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def median(values: Floats) -> float:
    """``numpy.median`` of at least one number, all finite, equal to the last bit."""
    middle = values.size // 2
    if values.size % 2:
        return float(np.partition(values, middle)[middle])
    found = np.partition(values, (middle - 1, middle))
    return float((found[middle - 1] + found[middle]) / 2)


def quantile(values: Floats, share: float) -> float:
    """``numpy.quantile`` of at least one number, all finite."""
    place = share * (values.size - 1)
    low, high = math.floor(place), math.ceil(place)
    found = np.partition(values, (low, high))
    return float(found[low] + (found[high] - found[low]) * (place - low))
