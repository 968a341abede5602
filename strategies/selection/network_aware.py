"""Our policy: everybody in turn, so that no link decides whose data counts."""

from __future__ import annotations

import numpy as np

from strategies.fleet import Fleet, Floats, Ints


class NetworkAwareSelection:
    """Oldest first, ties broken by chance: the plan, not the choice, makes slow links cheap."""

    def select(
        self, fleet: Fleet, available: Ints, predicted_s: Floats, *, cohort: int, round: int, rng: np.random.Generator
    ) -> Ints:
        """See ``SelectionPolicy.select``."""
        order = np.lexsort((rng.random(available.size), fleet.last_round[available]))
        return available[order[:cohort]]
