"""Whether a model has exploded, and whose update did it, judged by the server's own measurements alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from strategies.fleet.outliers import LARGEST_Z, robust_z

LEARNED = 0.5  # of chance: a model must have gained this much before it can forget
FORGOTTEN = 0.9  # of its gain: losing this much counts as forgetting
FEWEST_TO_COMPARE = 3  # updates in a round before one of them can stand out


@dataclass(frozen=True, slots=True)
class Suspect:
    """An update that went into the model: its row, its norm, and the held-out loss with it alone, if measured."""

    row: int
    norm: float
    held_out_loss: float | None = None


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

    def exploded(self, loss: float | None) -> bool:
        """Whether ``loss``, None for one that is not finite, is an explosion."""
        return loss is None or not math.isfinite(loss) or loss > self.most

    def sound(self, loss: float | None) -> None:
        """Remember a loss that was no explosion."""
        self.before = loss
        if loss is not None:
            self.best = loss if self.best is None else min(self.best, loss)

    def state(self) -> dict[str, float | None]:
        """JSON-able."""
        return {"chance": self.chance, "before": self.before, "best": self.best}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Inverse of ``state``."""
        self.chance, self.before, self.best = state["chance"], state["before"], state["best"]


def culprits(suspects: Sequence[Suspect], most: float) -> list[int]:
    """Rows whose update alone explodes the model, or has a norm out of proportion to the round's others.

    Empty if that is half of the rows or more: then the cause is a common one, such as the learning rate.
    """
    logs = [math.log(max(suspect.norm, 1e-30)) for suspect in suspects]
    found = {
        suspect.row
        for suspect, log in zip(suspects, logs, strict=True)
        if (suspect.held_out_loss is not None and suspect.held_out_loss > most)
        or (len(logs) >= FEWEST_TO_COMPARE and robust_z(log, logs) > LARGEST_Z)
    }
    return sorted(found) if 2 * len(found) < len({suspect.row for suspect in suspects}) else []
