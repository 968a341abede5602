"""Uniform sampling of 1.3 cohorts, of which the first cohort of replies counts.

Source: Bonawitz et al., "Towards Federated Learning at Scale: System Design", arXiv 1902.01046, section 9: "select 130%
of the target number of devices", the stragglers' work being discarded.
"""

from __future__ import annotations

import math

import numpy as np

from strategies.fleet import Fleet, Ints
from strategies.planning import FleetPlan
from strategies.selection.policy import Memoryless, Selection

FACTOR = 1.3


class OvercommitSelection(Memoryless):
    """Random, asking for more than it will wait for."""

    def select(
        self, fleet: Fleet, available: Ints, plan: FleetPlan, *, cohort: int, round: int, rng: np.random.Generator
    ) -> Selection:
        """See ``SelectionPolicy.select``."""
        count = min(overcommitted(cohort), available.size)
        return Selection(rng.choice(available, size=count, replace=False), quota=min(cohort, count))


def overcommitted(cohort: int, factor: float = FACTOR) -> int:
    """``floor(factor * cohort)``, safe against the float just below a whole number."""
    return math.floor(factor * cohort + 1e-9)
