"""Uniform sampling without replacement, as FedAvg does (McMahan et al., arXiv 1602.05629).

With the settings' asynchronous mode this is FedBuff (Nguyen et al., arXiv 2106.06639): a fixed number of random nodes
at work, the server steps every K arrivals, and an update tau versions old counts ``(1 + tau) ** -0.5``.
"""

from __future__ import annotations

import numpy as np

from strategies.fleet import Fleet, Ints
from strategies.planning import FleetPlan
from strategies.selection.policy import Memoryless, Selection


class RandomSelection(Memoryless):
    """Every available node is equally likely."""

    def select(
        self, fleet: Fleet, available: Ints, plan: FleetPlan, *, cohort: int, round: int, rng: np.random.Generator
    ) -> Selection:
        """See ``SelectionPolicy.select``."""
        return Selection(rng.choice(available, size=min(cohort, available.size), replace=False))
