"""The warning at the end of a run that completed with a model no better than the untrained one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from hypergpu_fl.errors import Fault

_SLOWER: Final = "lower training.learning_rate, and scale inputs and targets to about 1"


def warning_of(history: Sequence[Mapping[str, Any]], untrained: float | None) -> Fault | None:
    """The warning about the last model's held-out loss; None if it is below the untrained model's, or unknown.

    Parameters
    ----------
    history : Sequence[Mapping]
        The rounds of ``report.json``.
    untrained : float | None
        Held-out loss of the first model; None if it was not finite.
    """
    if not history:
        return None
    loss = history[-1]["loss"]
    if not _finite(loss):
        cause = f"training diverged: the last model's loss is {loss}"
    elif untrained is not None and loss >= untrained:
        cause = f"the last model is no better than the untrained one: loss {loss:.4g}, untrained {untrained:.4g}"
    else:
        return None
    best = min((entry for entry in history if _finite(entry["loss"])), key=lambda entry: entry["loss"], default=None)
    if best is None or untrained is None or best["loss"] >= untrained:
        return Fault(cause, _SLOWER)
    return Fault(cause, f"{_SLOWER}; round {best['round']} had the least loss, {best['loss']:.4g}")


def _finite(loss: float | None) -> bool:
    return loss is not None and math.isfinite(loss)
