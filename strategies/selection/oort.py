"""Oort: high loss first, slow nodes penalised, the unexplored tried in time.

Source: Lai et al., "Oort: Efficient Federated Learning via Guided Participant Selection", arXiv 2010.06081, in the
form of its own implementation (FedScale, thirdparty/oort), whose defaults these are.

- statistical utility ``U = sqrt(mean squared sample loss) * samples used``;
- score ``(min(U, clip) - U_min) / range + sqrt(0.1 ln R / L)`` in round R for a node last seen in round L, ``clip``
  the 0.9 quantile of U, times ``(T / t) ** 2`` for a node whose round takes ``t > T``;
- pacer: T is the 30th percentile of all durations, 5 points more when the utility of the last 20 rounds differs less
  than a tenth from that of the 20 before, 5 less when it differs more than fivefold;
- exploit: of the nodes that score at least 0.05 times the k-th, k drawn in proportion to score;
- explore: a share of the cohort that falls from 0.9 by 0.98 a round to 0.3 goes to nodes never seen, drawn in
  proportion to data size (with the same penalty) from the five times as many best;
- 1.3 cohorts are asked, the first cohort of replies counts. A node that was tried but did not make it is credited
  with the round's mean utility and counts as explored.

It ignores how likely a node was to be chosen, so its model is biased.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from strategies.fleet import Fleet, Floats, Ints
from strategies.planning import FleetPlan
from strategies.selection.overcommit import FACTOR, overcommitted
from strategies.selection.policy import Selection, draw


@dataclass(frozen=True, slots=True)
class Tuning:
    """Oort's constants."""

    clip_quantile: float = 0.9
    cut_off: float = 0.05
    penalty: float = 2.0
    explore: float = 0.9
    explore_decay: float = 0.98
    explore_least: float = 0.3
    window: float = 5.0
    percentile: float = 30.0
    pacer_rounds: int = 20
    pacer_step: float = 5.0
    overcommit: float = FACTOR


class OortSelection:
    """Oort's training selector."""

    def __init__(self, tuning: Tuning | None = None) -> None:
        self._tuning = tuning or Tuning()
        self._explore = self._tuning.explore
        self._percentile = self._tuning.percentile
        self._paced = 0  # last round the pacer looked at
        self._exploited: list[int] = []
        self._exploited_utility: list[float] = []
        self._reward: Floats = np.zeros(0)
        self._seen: Ints = np.zeros(0, np.int64)  # round last tried; 0: unexplored

    def select(
        self, fleet: Fleet, available: Ints, plan: FleetPlan, *, cohort: int, round: int, rng: np.random.Generator
    ) -> Selection:
        """See ``SelectionPolicy.select``."""
        tuning = self._tuning
        self._grow(len(fleet))
        self._pace(round)
        wanted = min(overcommitted(cohort, tuning.overcommit), available.size)
        preferred_s = self._preferred_s(plan.predicted_s)
        penalty = np.minimum(1.0, preferred_s / np.maximum(plan.predicted_s, 1e-9)) ** tuning.penalty
        known, unknown = available[self._seen[available] > 0], available[self._seen[available] == 0]

        self._explore = max(self._explore * tuning.explore_decay, tuning.explore_least) if unknown.size else 0.0
        exploit = min(wanted - int(wanted * self._explore), known.size)
        exploited = known[:0]
        if exploit:
            score = scores(self._reward[known], self._seen[known], round, tuning.clip_quantile) * penalty[known]
            kth = np.partition(score, -exploit)[-exploit]
            kept = score >= tuning.cut_off * kth
            exploited = draw(known[kept], score[kept], exploit, rng)
        self._exploited = exploited.tolist()

        explore = min(wanted - exploited.size, unknown.size)
        size = fleet.examples[unknown] * penalty[unknown]
        best = np.argsort(-size, kind="stable")[: math.ceil(tuning.window * explore)]
        explored = draw(unknown[best], size[best], explore, rng)

        rows = np.concatenate([exploited, explored])
        if rows.size < wanted:  # fewer unexplored nodes than their share
            rest = np.setdiff1d(known, exploited)
            rows = np.concatenate([rows, rng.choice(rest, size=wanted - rows.size, replace=False)])
        return Selection(rows, quota=min(cohort, rows.size))

    def closed(self, fleet: Fleet, *, round: int, selected: Ints, arrived: Ints) -> None:
        """Credit nodes that arrived with their utility, and nodes that were tried in vain with the mean of those."""
        self._grow(len(fleet))
        utility = np.nan_to_num(fleet.rms_loss[arrived]) * fleet.examples[arrived]
        self._reward[arrived], self._seen[arrived] = utility, round
        failed = np.setdiff1d(selected, arrived)
        failed = failed[self._seen[failed] == 0]
        self._reward[failed], self._seen[failed] = (float(utility.mean()) if arrived.size else 0.0), round
        succeeded = np.intersect1d(self._exploited, arrived).astype(np.int64)
        self._exploited_utility.append(float(self._reward[succeeded].mean()) if succeeded.size else 0.0)
        del self._exploited_utility[: -2 * self._tuning.pacer_rounds]

    def state(self) -> dict[str, Any]:
        """Exploration, pacer and every node's utility."""
        return {
            "tuning": asdict(self._tuning),
            "explore": self._explore,
            "percentile": self._percentile,
            "paced": self._paced,
            "exploited": list(self._exploited),
            "exploited_utility": list(self._exploited_utility),
            "reward": self._reward.tolist(),
            "seen": self._seen.tolist(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Inverse of ``state``."""
        self._tuning = Tuning(**state["tuning"])
        self._explore, self._percentile, self._paced = state["explore"], state["percentile"], state["paced"]
        self._exploited, self._exploited_utility = list(state["exploited"]), list(state["exploited_utility"])
        self._reward = np.asarray(state["reward"], dtype=np.float64)
        self._seen = np.asarray(state["seen"], dtype=np.int64)

    def _preferred_s(self, predicted_s: Floats) -> float:
        if self._percentile >= 100 or not predicted_s.size:
            return math.inf
        index = min(int(predicted_s.size * self._percentile / 100), predicted_s.size - 1)
        return float(np.partition(predicted_s, index)[index])

    def _pace(self, round: int) -> None:
        """Every ``pacer_rounds``, relax T if the utility has gone flat, tighten it if it has jumped."""
        rounds, step = self._tuning.pacer_rounds, self._tuning.pacer_step
        if round <= self._paced or round < 2 * rounds or round % rounds or len(self._exploited_utility) < 2 * rounds:
            return
        self._paced = round
        before, lately = sum(self._exploited_utility[:rounds]), sum(self._exploited_utility[rounds:])
        if abs(lately - before) <= 0.1 * before:
            self._percentile = min(100.0, self._percentile + step)
        elif abs(lately - before) >= 5 * before:
            self._percentile = max(step, self._percentile - step)

    def _grow(self, size: int) -> None:
        missing = size - self._seen.size
        if missing > 0:
            self._reward = np.concatenate([self._reward, np.zeros(missing)])
            self._seen = np.concatenate([self._seen, np.zeros(missing, np.int64)])


def scores(reward: Floats, last_seen: Ints, round: int, clip_quantile: float) -> Floats:
    """``(min(U, clip) - U_min) / range + sqrt(0.1 ln R / L)``; ``U_min`` is 0.999 of the least, range at least 1e-4."""
    ordered = np.sort(reward)
    clip = ordered[min(int(reward.size * clip_quantile), reward.size - 1)]
    least = 0.999 * ordered[0]
    spread = max(float(ordered[-1] - least), 1e-4)
    uncertainty = np.sqrt(0.1 * math.log(max(round, 1)) / np.maximum(last_seen, 1))
    return np.asarray((np.minimum(reward, clip) - least) / spread + uncertainty, dtype=np.float64)
