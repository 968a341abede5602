"""When a model has exploded, and whose update did it: by the server's own measurements, never by what nodes claim."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from strategies.fleet.outliers import LARGEST_Z, robust_z

LEARNED = 0.5  # of chance, that a model has to have gained before it can forget
FORGOTTEN = 0.9  # of what it had gained
FEWEST_TO_COMPARE = 3  # updates of a round, for one of them to stand out


@dataclass(frozen=True, slots=True)
class Suspect:
    """An update of the round that made the model: its row, norm, and the held-out loss with it alone, if measured."""

    row: int
    norm: float
    held_out_loss: float | None = None


class HeldOutLoss:
    """The server's held-out loss against what can be had by chance: the fresh model's.

    A ratio to earlier losses would not do. A loss of 0.073 after 0.006 is a factor of 12 and nothing wrong, and nodes
    that join late with classes of their own raise it far more. What no healthy run does is to forget what it knew: once
    the best loss is half of chance, ``loss > best + 0.9 (chance - best)`` is an explosion. Before that it takes a loss
    far beyond chance, for a run on skewed data may lie above it for a while: ``loss > max(chance, before) + |chance|``,
    with ``before`` the last loss that was no explosion.
    """

    def __init__(self) -> None:
        self.chance: float | None = None
        self.before: float | None = None
        self.best: float | None = None

    @property
    def most(self) -> float:
        """The largest loss that is no explosion; infinite as long as nobody measured chance."""
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
    """Rows whose update by itself explodes the model, or is out of all proportion to the round's others.

    Nobody if that is half of them or more: then the cause is common, such as the learning rate.
    """
    logs = [math.log(max(suspect.norm, 1e-30)) for suspect in suspects]
    found = {
        suspect.row
        for suspect, log in zip(suspects, logs, strict=True)
        if (suspect.held_out_loss is not None and suspect.held_out_loss > most)
        or (len(logs) >= FEWEST_TO_COMPARE and robust_z(log, logs) > LARGEST_Z)
    }
    return sorted(found) if 2 * len(found) < len({suspect.row for suspect in suspects}) else []
