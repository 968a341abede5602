"""An update or a model in 32 numbers, by which one sees whether two are equal, or how far apart they are.

Names used here: P = values of the model.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from strategies.model.aggregation import Update
from strategies.model.layout import Vector

SIZE: Final = 32  # numbers of a sketch


def update_sketch(update: Update) -> tuple[float, ...]:
    """Sketch of an update; nothing for nothing, and for what is not finite."""
    padded = _padded(update.size)
    update.add_to(padded[: update.size], 1.0)
    found = _folded(padded, update.size)
    return found if any(found) else ()


def model_sketch(values_P: Vector) -> tuple[float, ...]:
    """Sketch of a model's values; nothing for what is not finite."""
    padded = _padded(values_P.size)
    padded[: values_P.size] = values_P
    return _folded(padded, values_P.size)


def _padded(size: int) -> Vector:
    return np.zeros(-(-size // SIZE) * SIZE, dtype=np.float32)


def _folded(padded: Vector, size: int) -> tuple[float, ...]:
    """Signed fold of ``size`` values onto ``SIZE`` (count sketch, ICALP 2002); ``padded`` is changed."""
    padded[:size] *= _signs(size)
    folded = padded.reshape(-1, SIZE).sum(axis=0, dtype=np.float64)
    return tuple(map(written, folded.tolist())) if np.isfinite(folded).all() else ()


def written(value: float) -> float:
    """A number of a sketch, rounded to the digits with which it is compared and logged."""
    return float(f"{value:.8g}")


@lru_cache(maxsize=2)
def _signs(size: int) -> NDArray[Any]:
    return np.random.default_rng(0).choice(np.array([-1, 1], dtype=np.int8), size=size)
