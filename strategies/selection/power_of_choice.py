"""Power-of-choice: of d nodes drawn by data size, the cohort with the highest loss.

Source: Cho, Wang, Joshi, "Client Selection in Federated Learning: Convergence Analysis and Power-of-Choice Selection
Strategies", arXiv 2010.01243: candidates are drawn without replacement in proportion to their data shares; variant
rpow-d, which polls nobody but ranks by the mean loss each node last reported, nodes never seen counting as infinite.
"""

from __future__ import annotations

import math

import numpy as np

from strategies.fleet import Fleet, Ints
from strategies.planning import FleetPlan
from strategies.selection.policy import Memoryless, Selection, draw


class PowerOfChoiceSelection(Memoryless):
    """Draw ``ratio`` cohorts of candidates, keep those of highest loss."""

    def __init__(self, ratio: float = 2.0) -> None:
        self._ratio = ratio

    def select(
        self, fleet: Fleet, available: Ints, plan: FleetPlan, *, cohort: int, round: int, rng: np.random.Generator
    ) -> Selection:
        """See ``SelectionPolicy.select``."""
        sizes = fleet.examples[available].astype(np.float64)
        candidates = draw(available, sizes, math.ceil(self._ratio * cohort), rng)
        loss = np.where(np.isnan(fleet.loss[candidates]), np.inf, fleet.loss[candidates])
        order = np.lexsort((rng.random(candidates.size), -loss))
        return Selection(candidates[order[:cohort]])
