"""Aggregation rules by name: the streaming mean, and robust ones that hold all updates of a round."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from strategies.errors import UnknownPolicy
from strategies.model.aggregation import Aggregator, StreamingMean
from strategies.model.robust.krum import Krum
from strategies.model.robust.median import Median
from strategies.model.robust.norm_clipping import NormClipping
from strategies.model.robust.trimmed_mean import TrimmedMean
from strategies.spelling import did_you_mean

__all__ = ["AGGREGATORS", "aggregator"]

AGGREGATORS: Final[dict[str, Callable[[int], Aggregator]]] = {
    "mean": StreamingMean,
    "median": Median,
    "trimmed_mean": TrimmedMean,
    "krum": Krum,
    "norm_clipping": NormClipping,
}


def aggregator(name: str, size: int) -> Aggregator:
    """The rule called ``name`` for a model of ``size`` values. Raises ``UnknownPolicy`` with the names there are."""
    if name not in AGGREGATORS:
        known = ", ".join(AGGREGATORS)
        raise UnknownPolicy(f"no aggregation rule {name!r}{did_you_mean(name, AGGREGATORS)}; there are {known}")
    return AGGREGATORS[name](size)
