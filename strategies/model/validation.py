"""Checks that a decoded update must pass before it may count."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from strategies.errors import Reason, Refused
from strategies.model.aggregation import Update
from strategies.model.layout import Arrays


def check_update(update: Update, *, size: int, buffers: Arrays) -> float:
    """L2 norm of ``update``. Raises ``Refused`` if it is of another model or not finite."""
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


def check_base(update: Update, base: int) -> None:
    """Refuse an update that states another base version than the one sent."""
    if update.base is not None and update.base != base:
        raise Refused(Reason.UNKNOWN_BASE, f"the update is against version {update.base}, version {base} was sent")


def check_buffers(found: Mapping[str, NDArray[Any]], expected: Arrays) -> None:
    """Refuse buffers that the model lacks, or of another shape or dtype; ``Statistics`` says which values count."""
    for name, array in found.items():
        if name not in expected:
            raise Refused(Reason.WRONG_MODEL, f"buffer {name!r} is none of {list(expected)}")
        wanted = expected[name]
        if array.shape != wanted.shape or array.dtype != wanted.dtype:
            raise Refused(
                Reason.WRONG_MODEL,
                f"buffer {name!r} is {array.dtype}{list(array.shape)}, expected {wanted.dtype}{list(wanted.shape)}",
            )
