"""What is fixed for a run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from strategies.planning import Compression
from strategies.settings import Settings

MOST_AT_WORK = 1.3  # times the cohort, including stragglers of earlier rounds
ORDERS_PER_NODE = 1  # that may be open at once


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules that the machine follows.

    Attributes
    ----------
    settings : Settings
        Cohort, quota, mode, seed.
    model_values : int
        Floating-point values of the model.
    levels : tuple of Compression
        The codec's, from fattest to thinnest.
    selection : str
        Who works: a name in ``strategies.selection.POLICIES``.
    planner : str
        What each node would be asked to do: a name in ``strategies.planning.PLANNERS``.
    books : str
        How much each update counts: a name in ``strategies.weighting.BOOKS``.
    """

    settings: Settings
    model_values: int
    levels: tuple[Compression, ...]
    selection: str
    planner: str
    books: str

    @property
    def most_at_work(self) -> int:
        """Nodes that may be at work at once."""
        return math.floor(MOST_AT_WORK * self.settings.cohort + 1e-9)
