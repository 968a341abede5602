"""Which round's model was the best: by the target's metric, else by accuracy, else by the lowest loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hypergpu_fl.config import Training


@dataclass(frozen=True, slots=True)
class Aim:
    """A metric and whether more of it is better. An empty name means accuracy if it is measured, else loss."""

    metric: str = ""
    more: bool = True


def aim_of(training: Training) -> Aim:
    """What ``training.target`` names (``"loss <= 1.88"``), or accuracy where ``target_accuracy`` is set."""
    goal = training.goal
    return Aim(goal.metric, goal.comparison in (">", ">=")) if goal else Aim()


def best_round(history: Sequence[Mapping[str, Any]], aim: Aim) -> int | None:
    """The round with the best figure, the first of equals; the newest round if none has a figure."""
    if not aim.metric:
        by_accuracy = any(_figure(entry, "accuracy") is not None for entry in history)
        aim = Aim("accuracy") if by_accuracy else Aim("loss", more=False)
    sign = 1.0 if aim.more else -1.0
    figures = [(entry["round"], _figure(entry, aim.metric)) for entry in history]
    measured = [(sign * figure, -round) for round, figure in figures if figure is not None]
    if measured:
        return -int(max(measured)[1])
    return int(history[-1]["round"]) if history else None


def _figure(entry: Mapping[str, Any], metric: str) -> float | None:
    figure = (entry.get("metrics") or {}).get(metric, entry.get(metric))
    return float(figure) if isinstance(figure, int | float) and math.isfinite(figure) else None
