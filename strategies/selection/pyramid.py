"""PyramidFL: Oort's choice, then more local work and thinner updates within the chosen cohort.

Source: Li et al., "PyramidFL: A Fine-grained Client Selection Framework for Efficient Federated Learning", MobiCom
2022, in the form of its own implementation (liecn/PyramidFL), whose defaults these are: Oort with a steeper cut-off,
faster decay and a 10th percentile to start from; then, over the cohort that is predicted to finish first,

- update dropout by rank: with the importance ``norm of the last update * samples``, the k-th most important of K
  drops ``0.1 + k (0.6 - 0.1) / K`` of its update, k = 0 .. K - 1, and its upload takes that much less;
- extra local work: the round then lasts T, the longest of them, and a node that would take ``t`` does
  ``1 + min(10, floor((T - t) / step time) / steps)`` times its planned steps.
"""

from __future__ import annotations

import numpy as np

from strategies.fleet import Fleet, Floats, Ints
from strategies.planning import FleetPlan
from strategies.selection.oort import OortSelection, Tuning
from strategies.selection.policy import Selection

TUNING = Tuning(clip_quantile=0.98, cut_off=0.7, explore_decay=0.95, explore_least=0.2, percentile=10.0, pacer_step=5.0)
LEAST_DROPOUT, MOST_DROPOUT = 0.1, 0.6
MOST_EXTRA = 10.0


class PyramidSelection(OortSelection):
    """Oort plus a plan of its own for each chosen node."""

    def __init__(self, tuning: Tuning = TUNING) -> None:
        super().__init__(tuning)

    def select(
        self, fleet: Fleet, available: Ints, plan: FleetPlan, *, cohort: int, round: int, rng: np.random.Generator
    ) -> Selection:
        """See ``SelectionPolicy.select``. Nodes beyond the cohort stand by with the baseline's work."""
        rows = super().select(fleet, available, plan, cohort=cohort, round=round, rng=rng).rows
        rows = rows[np.argsort(plan.predicted_s[rows], kind="stable")]
        first = rows[:cohort]
        norm = fleet.update_norm[first]
        importance = np.where(np.isnan(norm), np.inf, norm * fleet.examples[first])
        keep = np.ones(rows.size)
        keep[: first.size] = 1 - dropout(importance)
        finish_s = plan.predicted_s[rows] - (1 - keep) * plan.upload_s[rows]
        round_s = float(finish_s[: first.size].max(initial=0.0))
        steps = plan.local_steps[rows].copy()
        steps[: first.size] = extended(steps[: first.size], plan.compute_s[first], finish_s[: first.size], round_s)
        return Selection(rows, quota=first.size, local_steps=steps, keep=keep)


def dropout(importance: Floats) -> Floats:
    """Share of its update that each node drops, by rank of importance; equals share a rank."""
    ordered = np.sort(-importance)
    rank = np.searchsorted(ordered, -importance, side="left")
    return np.asarray(LEAST_DROPOUT + rank * (MOST_DROPOUT - LEAST_DROPOUT) / max(1, importance.size), np.float64)


def extended(steps: Ints, compute_s: Floats, finish_s: Floats, round_s: float) -> Ints:
    """Local steps that fill each node's slack until ``round_s``, at most eleven times the planned ones."""
    step_s = np.maximum(compute_s / np.maximum(steps, 1), 1e-9)
    extra = np.minimum(MOST_EXTRA, np.floor((round_s - finish_s) / step_s + 1e-9) / np.maximum(steps, 1))
    return np.asarray(np.rint((1 + extra) * steps), dtype=np.int64)
