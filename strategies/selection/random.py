"""Uniform sampling without replacement, as FedAvg does (McMahan et al., arXiv 1602.05629)."""

from __future__ import annotations

import numpy as np

from strategies.fleet import Fleet, Floats, Ints


class RandomSelection:
    """Every available node is equally likely."""

    def select(
        self, fleet: Fleet, available: Ints, predicted_s: Floats, *, cohort: int, round: int, rng: np.random.Generator
    ) -> Ints:
        """See ``SelectionPolicy.select``."""
        return rng.choice(available, size=min(cohort, available.size), replace=False)
