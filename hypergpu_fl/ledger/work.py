"""How much work an accepted update stands for; base pay is shared out by it."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median


def credited_ms(steps: Sequence[int], seconds: Sequence[float | None]) -> list[int]:
    """Milliseconds of work of each update: the measured time, but no more than the round's usual time for its steps.

    Nothing that a node reports is used: ``steps`` are those that the server ordered, and ``seconds`` pass on the
    server's clock between order and reply; None means that they were not measured, and counts as no time. The usual
    time of a step is the median over the round, so dawdling is not paid, and an immediate answer is paid next to
    nothing.
    """
    measured = [(count, lasted) for count, lasted in zip(steps, seconds, strict=True) if lasted is not None]
    usual_s = median(lasted / max(1, count) for count, lasted in measured) if measured else 0.0
    pairs = zip(steps, seconds, strict=True)
    return [round(1e3 * max(0.0, min(lasted or 0.0, count * usual_s))) for count, lasted in pairs]
