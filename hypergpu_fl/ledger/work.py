"""How much work an accepted update stands for, where work itself is paid."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median


def credited_ms(steps: Sequence[int], seconds: Sequence[float | None]) -> list[int]:
    """Milliseconds of each update: as long as it was measured to take, and no longer than such an order usually takes.

    Nothing that a node says of itself goes in: ``steps`` are those that were ordered, ``seconds`` pass on the server's
    clock between order and reply (None: nobody measured them, which counts as no time). What is usual is the median of
    the round's seconds a step, so a node that dawdles is not paid for it, and one that answers at once is paid for
    hardly anything.
    """
    measured = [(count, lasted) for count, lasted in zip(steps, seconds, strict=True) if lasted is not None]
    usual_s = median(lasted / max(1, count) for count, lasted in measured) if measured else 0.0
    pairs = zip(steps, seconds, strict=True)
    return [round(1e3 * max(0.0, min(lasted or 0.0, count * usual_s))) for count, lasted in pairs]
