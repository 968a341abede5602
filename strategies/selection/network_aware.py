"""Our policy: the nodes that are owed most work next, so that no link decides whose data counts.

``fleet.owed`` is the weight by which a node lies behind its data share (see ``weighting.Accounts``). Taking the largest
debts first is max-weight scheduling: it visits nodes in proportion to their data, keeps every debt bounded whenever
any schedule could, and gives the chosen updates nearly equal weights, which wastes the least of each round. Slow links
are made cheap by the plan, not by the choice.
"""

from __future__ import annotations

import numpy as np

from strategies.fleet import Bools, Fleet, Floats, Ints
from strategies.planning import FleetPlan
from strategies.quantiles import median
from strategies.selection.policy import Memoryless, Selection

MOST_AHEAD = 20.0  # mean data shares; a node with that much too much weight waits for the others
LOSS_TILT = 2.0  # a node's loss may raise or lower its priority by this factor at most


class NetworkAwareSelection(Memoryless):
    """Largest debt first, tilted by loss. New nodes are tried at once, silent nodes ever more rarely.

    Nodes far in credit idle instead of running ahead, which bounds the bias even where slow nodes hold much of the data
    of a small fleet.
    """

    def select(
        self, fleet: Fleet, available: Ints, plan: FleetPlan, *, cohort: int, round: int, rng: np.random.Generator
    ) -> Selection:
        """See ``SelectionPolicy.select``."""
        willing = available[~fleet.resting[available] & ~_ahead(fleet, available)]
        if not willing.size and not fleet.at_work.any():
            willing = available  # better a node in credit or at rest than none
        count = min(cohort, willing.size)
        if not count:
            return Selection(willing)
        urgency = priority(fleet, willing)
        # ties (all debts are zero at first) are broken by chance
        jitter = rng.random(willing.size) * 1e-6 / max(1, len(fleet))
        top = np.argpartition(-(urgency + jitter), count - 1)[:count]
        return Selection(willing[top[np.argsort(-(urgency + jitter)[top], kind="stable")]])


def passed_over(fleet: Fleet, row: int, *, urgency: Floats, chosen: Ints) -> str:
    """Why a round began without node ``row``, which was free; ``urgency`` is the ``priority`` of all nodes."""
    if fleet.resting[row]:
        return f"silent {fleet.misses[row]} times in a row, so it rests until {fleet.rests_until_s[row]:,.1f} s"
    if _ahead(fleet, np.array([row])).any():
        return f"more than {MOST_AHEAD:.0f} shares ahead of its data"
    return f"others came first: its priority is {urgency[row]:.4f}, theirs {urgency[chosen].min():.4f} and more"


def _ahead(fleet: Fleet, rows: Ints) -> Bools:
    """Which of these rows were given so much too much that they wait for the others."""
    return np.asarray(fleet.owed[rows] * max(1, int(fleet.reachable.sum())) < -MOST_AHEAD)


def priority(fleet: Fleet, rows: Ints) -> Floats:
    """Debt in units of total weight, lifted by half a data share a unit of log loss ratio.

    ``owed + share * ln(clip(rms_loss / median, 1/2, 2))``. New nodes come before all others, largest data first, since
    nothing can be planned or weighted for a node before it was tried once.
    """
    share = fleet.examples[rows] / max(1, int(fleet.examples.sum()))
    loss = fleet.rms_loss[rows]
    known = loss[~np.isnan(loss)]
    middle = median(known) if known.size else 1.0
    ratio = np.clip(np.where(np.isnan(loss), middle, loss) / max(middle, 1e-12), 1 / LOSS_TILT, LOSS_TILT)
    novelty = np.where(fleet.selections[rows] == 0, 10.0, 0.0)
    return np.asarray(fleet.owed[rows] + share * np.log(ratio) + novelty * (1 + share), dtype=np.float64)
