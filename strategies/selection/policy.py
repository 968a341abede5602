"""The interface of every client-selection policy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from strategies.fleet import Fleet, Floats, Ints
from strategies.planning import FleetPlan


@dataclass(frozen=True)
class Selection:
    """Which nodes work, and what the policy itself demands; ``None`` leaves it to the plan and the settings.

    Attributes
    ----------
    rows : Ints
        Distinct rows, most wanted first; fewer are sent work if others are still busy.
    quota : int, optional
        Replies that end the round; fewer than ``rows`` when the policy over-commits.
    deadline_s : float, optional
        Longest round.
    local_steps : Ints, optional
        Shape of ``rows``: local steps of each.
    keep : Floats, optional
        Shape of ``rows``, in (0, 1]: share of the update's values that each sends.
    """

    rows: Ints
    quota: int | None = None
    deadline_s: float | None = None
    local_steps: Ints | None = None
    keep: Floats | None = None

    def first(self, count: int) -> Selection:
        """The ``count`` most wanted of them."""
        steps, keep = self.local_steps, self.keep
        return replace(
            self,
            rows=self.rows[:count],
            local_steps=None if steps is None else steps[:count],
            keep=None if keep is None else keep[:count],
        )


class SelectionPolicy(Protocol):
    """Chooses who works next. A policy may remember what it learns; it draws only from ``rng``."""

    def select(
        self, fleet: Fleet, available: Ints, plan: FleetPlan, *, cohort: int, round: int, rng: np.random.Generator
    ) -> Selection:
        """Choose ``cohort`` nodes, or more where the policy over-commits.

        Parameters
        ----------
        fleet : Fleet
            Columns of all N nodes.
        available : Ints
            Rows that may be given work.
        plan : FleetPlan
            What each of the N nodes would do, and how long that would take it.
        cohort : int
            How many nodes are wanted.
        round : int
            Number of the round to be planned, from 1.
        rng : Generator
            The only source of randomness.
        """
        ...

    def closed(self, fleet: Fleet, *, round: int, selected: Ints, arrived: Ints) -> None:
        """Learn from ``round``: the rows that were sent work, and those whose update counted."""
        ...

    def state(self) -> dict[str, Any]:
        """What the policy remembers, as JSON-able values."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Inverse of ``state``."""
        ...


class Memoryless:
    """Base of policies that look only at the fleet's columns."""

    def closed(self, fleet: Fleet, *, round: int, selected: Ints, arrived: Ints) -> None:
        """Nothing to learn."""

    def state(self) -> dict[str, Any]:
        """Nothing remembered."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


def draw(rows: Ints, scores: Floats, count: int, rng: np.random.Generator) -> Ints:
    """``count`` of ``rows`` without replacement, each draw in proportion to the non-negative ``scores``.

    Rows of score zero are drawn, uniformly, only when no others are left.
    """
    count = min(count, rows.size)
    positive = rows[scores > 0]
    if positive.size <= count:
        rest = rows[scores <= 0]
        return np.concatenate([positive, rng.choice(rest, size=count - positive.size, replace=False)])
    p = scores[scores > 0]
    return rng.choice(positive, size=count, replace=False, p=p / p.sum())
