"""How far a value lies above those before it, on a logarithmic scale and robust to a minority of bad ones."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

LARGEST_Z = 6.0
ORDINARY_Z = 2.0  # what lies further out counts as this
LEAST_SIGMA = 0.25  # of logarithms: a run of nearly equal values must not make an ordinary one look odd
MAD_TO_SIGMA = 1.4826  # of a normal distribution


def robust_z(log: float, logs: Sequence[float]) -> tuple[float, float]:
    """``(x - median) / sigma``, and ``sigma = 1.4826 MAD``, at least 0.25: 6 of these are a factor of 4.5."""
    middle = median(logs)  # Python's is faster than numpy's for a few dozen values
    sigma = max(LEAST_SIGMA, MAD_TO_SIGMA * median(abs(value - middle) for value in logs))
    return (log - middle) / sigma, sigma
