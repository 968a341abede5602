"""An update in 32 numbers, by which two equal updates are recognised.

Names used here: P = values of the model.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from strategies.model.aggregation import Update

SIZE: Final = 32  # numbers of a sketch


def sketch(update: Update) -> tuple[float, ...]:
    """Signed fold of P values onto ``SIZE`` (count sketch, ICALP 2002); nothing for nothing."""
    padded = np.zeros(-(-update.size // SIZE) * SIZE, dtype=np.float32)
    values_P = padded[: update.size]
    update.add_to(values_P, 1.0)
    values_P *= _signs(update.size)
    folded = padded.reshape(-1, SIZE).sum(axis=0, dtype=np.float64)
    if not np.isfinite(folded).all() or not folded.any():
        return ()
    return tuple(map(written, folded.tolist()))


def written(value: float) -> float:
    """A number of a sketch, rounded to the digits with which it is compared and logged."""
    return float(f"{value:.8g}")


@lru_cache(maxsize=2)
def _signs(size: int) -> NDArray[Any]:
    return np.random.default_rng(0).choice(np.array([-1, 1], dtype=np.int8), size=size)
