"""What a decoded update must be before it may count."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from strategies.aggregation import Update
from strategies.errors import Reason, Refused
from strategies.layout import Arrays


def check_update(update: Update, *, size: int, buffers: Arrays) -> float:
    """L2 norm of ``update``, refused if it is of another model or not finite."""
    if update.size != size:
        raise Refused(Reason.WRONG_MODEL, f"{update.size} values, the model has {size}")
    check_buffers(update.buffers, buffers)
    if not update.finite():
        raise Refused(
            Reason.NON_FINITE, "the update holds NaN or infinity; lower the learning rate, or scale inputs and targets"
        )
    norm = update.norm()
    if not math.isfinite(norm):
        raise Refused(Reason.NON_FINITE, "the update's norm overflows")
    return norm


def check_buffers(found: Mapping[str, NDArray[Any]], expected: Arrays) -> None:
    """Refuse buffers that the model does not have, or of another shape or dtype."""
    for name, array in found.items():
        if name not in expected:
            raise Refused(Reason.WRONG_MODEL, f"buffer {name!r} is none of {list(expected)}")
        wanted = expected[name]
        if array.shape != wanted.shape or array.dtype != wanted.dtype:
            raise Refused(
                Reason.WRONG_MODEL,
                f"buffer {name!r} is {array.dtype}{list(array.shape)}, expected {wanted.dtype}{list(wanted.shape)}",
            )
