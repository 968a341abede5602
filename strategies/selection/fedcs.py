"""FedCS: as many nodes as finish before a deadline.

Source: Nishio, Yonetani, "Client Selection for Federated Learning with Heterogeneous Resources in Mobile Edge",
arXiv 1804.08333, protocol 2: a random set of candidates tells its resources, and the server greedily takes those that
add least to the round's time while the round stays within the deadline. The paper's nodes share one cell and upload
one after the other; over the internet every node has its own link, so here uploads run side by side and a candidate
adds nothing but its own time. This favours FedCS.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from strategies.fleet import Fleet, Ints
from strategies.planning import FleetPlan
from strategies.selection.policy import Selection

CANDIDATES = 2  # over cohort
MOST_SLACK = 2.0**64  # no deadline is out of its reach, and no overflow in it


class FedCSSelection:
    """Of two cohorts of random candidates, the fastest that make the deadline, at most a cohort.

    Parameters
    ----------
    deadline_s : float
        The paper's T_round; 0: the median of the nodes' predicted rounds, so that half of all candidates make it,
        doubled after each round that nobody made (the paper's nodes tell their speed, here it may be unknown yet).
    """

    def __init__(self, deadline_s: float = 0.0) -> None:
        self._deadline_s = deadline_s
        self._slack = 1.0

    def select(
        self, fleet: Fleet, available: Ints, plan: FleetPlan, *, cohort: int, round: int, rng: np.random.Generator
    ) -> Selection:
        """See ``SelectionPolicy.select``. If no candidate makes the deadline, the fastest one works alone."""
        if not available.size:
            return Selection(available, quota=0)
        deadline_s = self._deadline_s or self._slack * float(np.median(plan.predicted_s[fleet.online]))
        count = min(CANDIDATES * cohort, available.size)
        candidates = rng.choice(available, size=count, replace=False)
        candidates = candidates[np.argsort(plan.predicted_s[candidates], kind="stable")]
        in_time = int((plan.predicted_s[candidates] <= deadline_s).sum())
        rows = candidates[: min(cohort, max(1, in_time))]
        return Selection(rows, quota=rows.size, deadline_s=deadline_s if in_time else None)

    def closed(self, fleet: Fleet, *, round: int, selected: Ints, arrived: Ints) -> None:
        """Double the deadline after a round in which no update arrived."""
        if selected.size and not arrived.size:
            self._slack = min(MOST_SLACK, 2.0 * self._slack)

    def state(self) -> dict[str, Any]:
        """The factor by which the deadline was stretched."""
        return {"slack": self._slack}

    def restore(self, state: dict[str, Any]) -> None:
        """Inverse of ``state``."""
        self._slack = state["slack"]
