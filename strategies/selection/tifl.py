"""TiFL: nodes grouped into tiers of similar speed; a round's cohort comes from one tier, so that no node waits long.

Source: Chai et al., "TiFL: A Tier-based Federated Learning System", arXiv 2001.09249, algorithm 2 (adaptive tier
selection). Every ``interval`` rounds, if the tier in use got no better since the last look, the n tiers in credit are
ranked from worst to best and drawn from then on with probability ``(n - rank) / D``, rank = 1 .. n,
``D = n (n - 1) / 2``. A tier serves at most ``credits`` times. The paper ranks tiers by accuracy on their nodes' test
data; here by the mean training loss that the nodes reported last, which costs no extra messages.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from strategies.fleet import Bools, Fleet, Floats, Ints
from strategies.planning import FleetPlan
from strategies.selection.policy import Selection


class TiFLSelection:
    """Adaptive tiers by predicted time.

    Parameters
    ----------
    tiers : int
        Groups of equal size, fastest first.
    interval : int
        Rounds between changes of the tiers' probabilities.
    credits : int
        Rounds each tier may serve; 0: no limit.
    """

    def __init__(self, tiers: int = 5, interval: int = 20, credits: int = 0) -> None:
        self._tiers = tiers
        self._interval = interval
        self._credits = credits
        self._used = [0] * tiers
        self._probabilities = [1.0 / tiers] * tiers
        self._tier = 0
        self._losses: list[float] = []

    def select(
        self, fleet: Fleet, available: Ints, plan: FleetPlan, *, cohort: int, round: int, rng: np.random.Generator
    ) -> Selection:
        """See ``SelectionPolicy.select``."""
        rank = np.empty(len(fleet), dtype=np.int64)
        rank[np.argsort(plan.predicted_s, kind="stable")] = np.arange(len(fleet))
        tier_N = rank * self._tiers // max(1, len(fleet))
        if round > 1 and (round - 1) % self._interval == 0:
            self._adapt(tier_losses(fleet, tier_N, self._tiers))
        open_ = np.isin(np.arange(self._tiers), tier_N[available])
        in_credit = open_ & self._in_credit()
        open_ = in_credit if in_credit.any() else open_
        if not available.size:
            return Selection(available)
        weights = np.where(open_, self._probabilities, 0.0)
        weights = weights if weights.sum() > 0 else open_.astype(np.float64)
        self._tier = int(rng.choice(self._tiers, p=weights / weights.sum()))
        self._used[self._tier] += 1
        rows = available[tier_N[available] == self._tier]
        return Selection(rng.choice(rows, size=min(cohort, rows.size), replace=False))

    def _in_credit(self) -> Bools:
        return np.asarray([not self._credits or used < self._credits for used in self._used])

    def _adapt(self, losses: Floats) -> None:
        if self._losses and losses[self._tier] >= self._losses[self._tier]:
            self._probabilities = ranked(losses, self._in_credit()).tolist()
        self._losses = losses.tolist()

    def closed(self, fleet: Fleet, *, round: int, selected: Ints, arrived: Ints) -> None:
        """Nothing beyond the fleet's columns."""

    def state(self) -> dict[str, Any]:
        """Tier counts, probabilities and the losses last compared."""
        return {
            "used": list(self._used),
            "probabilities": list(self._probabilities),
            "tier": self._tier,
            "losses": [None if math.isinf(loss) else loss for loss in self._losses],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Inverse of ``state``."""
        self._used, self._probabilities = list(state["used"]), list(state["probabilities"])
        self._tier = state["tier"]
        self._losses = [math.inf if loss is None else loss for loss in state["losses"]]


def ranked(losses: Floats, in_credit: Bools) -> Floats:
    """Probabilities of the tiers: by rank of loss among those in credit, highest loss first, the last one none."""
    probabilities = np.zeros(losses.size)
    tiers = np.flatnonzero(in_credit)
    tiers = tiers[np.argsort(-losses[tiers], kind="stable")]
    if tiers.size == 1:
        probabilities[tiers] = 1.0
    elif tiers.size:
        probabilities[tiers] = np.arange(tiers.size - 1, -1, -1) / (tiers.size * (tiers.size - 1) / 2)
    return probabilities


def tier_losses(fleet: Fleet, tier_N: Ints, tiers: int) -> Floats:
    """Mean of the losses last reported in each tier; infinite where none was reported, so that it is drawn first."""
    known = ~np.isnan(fleet.loss)
    sums = np.bincount(tier_N[known], weights=fleet.loss[known], minlength=tiers)
    counts = np.bincount(tier_N[known], minlength=tiers)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)
