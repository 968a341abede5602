"""Greedy on speed: the nodes with the shortest predicted rounds, always.

The simplest meaning of "selects by bandwidth", and the bound on how fast rounds can get. It never trains on the data
behind slow links, so its model is biased.
"""

from __future__ import annotations

import numpy as np

from strategies.fleet import Fleet, Ints
from strategies.planning import FleetPlan
from strategies.selection.policy import Memoryless, Selection


class LatencySelection(Memoryless):
    """Fastest first, ties broken by chance."""

    def select(
        self, fleet: Fleet, available: Ints, plan: FleetPlan, *, cohort: int, round: int, rng: np.random.Generator
    ) -> Selection:
        """See ``SelectionPolicy.select``."""
        order = np.lexsort((rng.random(available.size), plan.predicted_s[available]))
        return Selection(available[order[:cohort]])
