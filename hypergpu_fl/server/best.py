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
    """The round with the best figure, of equals the one of the least loss; the newest round if none has a figure.

    A small held-out set soon gives the same accuracy every round, while the model goes on learning.
    """
    if not aim.metric:
        by_accuracy = any(_figure(entry, "accuracy") is not None for entry in history)
        aim = Aim("accuracy") if by_accuracy else Aim("loss", more=False)
    sign = 1.0 if aim.more else -1.0
    measured = []
    for entry in history:
        figure, loss = _figure(entry, aim.metric), _figure(entry, "loss")
        if figure is not None:
            measured.append((sign * figure, -math.inf if loss is None else -loss, -int(entry["round"])))
    if measured:
        return -max(measured)[2]
    return int(history[-1]["round"]) if history else None


def _figure(entry: Mapping[str, Any], metric: str) -> float | None:
    figure = (entry.get("metrics") or {}).get(metric, entry.get(metric))
    return float(figure) if isinstance(figure, int | float) and math.isfinite(figure) else None
