"""Whether a model has exploded, and whose updates did it, judged by the server's own measurements alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

LEARNED = 0.5  # of chance: a model must have gained this much before it can forget
FORGOTTEN = 0.9  # of its gain: losing this much counts as forgetting
SPOILED = 0.25  # of its gain: a version that has lost this much is no longer one to go back to

Without = Sequence[tuple[int, float | None]]
"""Pairs: how many of the round's worst updates were left out, and the held-out loss of what the others make."""


class HeldOutLoss:
    """The server's held-out loss, judged against chance, which is the fresh model's loss.

    A ratio to earlier losses would not do: 0.073 after 0.006 is a factor of 12 and nothing is wrong, and nodes that
    join late with classes of their own raise the loss far more. But no healthy run forgets what it has learned: once
    the best loss is half of chance, ``loss > best + 0.9 (chance - best)`` is an explosion. Before that, only a loss far
    beyond chance is one, since a run on skewed data may lie above chance for a while: ``loss > max(chance, before) +
    |chance|``, with ``before`` the last loss that was no explosion.
    """

    def __init__(self) -> None:
        self.chance: float | None = None
        self.before: float | None = None
        self.best: float | None = None

    @property
    def most(self) -> float:
        """The largest loss that is not an explosion; infinite until chance has been measured."""
        if self.chance is None:
            return math.inf
        if self.best is not None and (gained := self.chance - self.best) >= LEARNED * abs(self.chance) > 0:
            return self.best + FORGOTTEN * gained
        return max(self.chance, self.chance if self.before is None else self.before) + abs(self.chance)

    @property
    def spoiled(self) -> bool:
        """Whether the last sound version had lost a quarter of what the best one had gained."""
        if self.chance is None or self.best is None or self.before is None:
            return False
        return self.before > self.best + SPOILED * max(0.0, self.chance - self.best)

    def exploded(self, loss: float | None) -> bool:
        """Whether ``loss``, None for one that is not finite, is an explosion."""
        return loss is None or not math.isfinite(loss) or loss > self.most

    def sound(self, loss: float | None) -> bool:
        """Remember a loss that was no explosion; whether it is the least so far."""
        self.before = loss
        if loss is None or (self.best is not None and loss >= self.best):
            return False
        self.best = loss
        return True

    def state(self) -> dict[str, float | None]:
        """JSON-able."""
        return {"chance": self.chance, "before": self.before, "best": self.best}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Inverse of ``state``."""
        self.chance, self.before, self.best = state["chance"], state["before"], state["best"]


def worst_first(alone: Sequence[float | None]) -> list[int]:
    """Numbers of a round's updates by the held-out loss with each alone: first what is not finite, then the largest."""

    def loss(number: int) -> float:
        found = alone[number]
        return math.inf if found is None or not math.isfinite(found) else found

    return sorted(range(len(alone)), key=loss, reverse=True)


def most_culprits(updates: int) -> int:
    """How many of a round's updates may be blamed: half of them; of a single one, that one.

    If the model still explodes without the worse half, the cause is a common one, such as the learning rate.
    """
    return max(updates // 2, min(updates, 1))


def left_out(updates: int, loss: Callable[[int], float | None], most: float) -> Without:
    """Find the fewest of the worst updates without which the model is sound, with ``2 + log2(updates)`` measurements.

    ``loss(count)`` is the held-out loss without the ``count`` worst, and ``most`` the largest that is no explosion.
    """
    found = [(0, loss(0))]
    if _sound(found[0][1], most) or not updates:
        return found
    explodes, sound = 0, most_culprits(updates)
    found.append((sound, loss(sound)))
    if not _sound(found[-1][1], most):
        return found
    while sound - explodes > 1:
        middle = (explodes + sound) // 2
        found.append((middle, loss(middle)))
        if _sound(found[-1][1], most):
            sound = middle
        else:
            explodes = middle
    return found


def culprits(rows: Sequence[int], alone: Sequence[float | None], without: Without, most: float) -> list[int]:
    """Rows of the fewest updates without which the model is sound, see ``left_out``; empty if there are none such.

    ``rows`` are those of the round's updates, ``alone`` the losses with each alone; empty if nobody measured.
    """
    sound = [count for count, loss in without if _sound(loss, most)]
    if not sound or len(alone) != len(rows) or min(sound) > most_culprits(len(rows)):
        return []
    return sorted({rows[number] for number in worst_first(alone)[: min(sound)]})


def _sound(loss: float | None, most: float) -> bool:
    return loss is not None and math.isfinite(loss) and loss <= most
