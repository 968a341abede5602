"""Our own plan: local steps, codec level and deadline that fit each node's link and its GPU.

Names used here: N = known nodes, L = codec levels.

The plan maximises progress per second. Three rules give it, each based on the links and processors as they are
believed to be (transfers include round trips and Flower's own cost per message), none tuned to a data set:

*Codec.* With error feedback (`hypergpu_fl.codec`) a share f of an update arrives at once, its level's fidelity; the
rest comes with the node's next update, when the model has moved on. Measured progress goes with about ``f ** 2.5``:
with an exponent of 2, accuracy came a little sooner where slow links hold classes of their own; with 3, it came a
little sooner elsewhere and ended higher. A node gets the level with the most progress per second,
``f ** 2.5 / seconds``: a fat one where links are fast or work is long, a thin one where bytes would otherwise fill the
round. Flower's own cost per message is left out of these seconds, since it is no reason to fill a slow uplink. A fatter
level is taken nevertheless if the whole round is then at most 1.4 times as long as with the thinnest. A level that
overruns a given deadline is taken only if the thinnest does too.

*Local steps*, unless the configuration fixes them. The progress of an update grows with its local steps s about as
``s ** 0.5``, until client drift ends it (measured here: to a given accuracy, 4 times the steps took half the updates).
If a node's transfers take T and a step t seconds, progress per second ``s ** b / (T + s t)`` is greatest at
``s = b / (1 - b) * T / t``, which for b = 1/2 is ``T / t``: compute for as long as the transfers take. All nodes get
the same number, from the medians of T and t over the fleet, since updates of unlike length, even normalised, were seen
to pull the model apart.

*Deadline.* Unless given, the 80th percentile of the nodes' rounds under this plan. Where rounds have no barrier it cuts
nobody off: a slower node's order states the time that the node is predicted to need. Predictions follow from what nodes
claim of themselves, so both are bounded by multiples of the median prediction, which less than half of the nodes cannot
move beyond the others': the deadline by ``FURTHEST_DEADLINE``, one node's own time by ``FURTHEST_NODE``. An honest node
that is slower than the deadline counts in a later round; one a hundred times slower than the median is still given all
the time that it needs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from strategies.fleet import Fleet, Floats, Ints
from strategies.planning.plans import FEWEST_STEPS, MOST_STEPS, Compression, FleetPlan, Workload
from strategies.planning.timing import DEADLINE_QUANTILE, ROUND_TRIPS, overhead_s
from strategies.quantiles import median, quantile

FIDELITY_EXPONENT = 2.5
FURTHEST_DEADLINE = 5.0  # times the median node's round; 3.2 where links spread a hundredfold, log-normally
FURTHEST_NODE = 100.0  # likewise: how much slower than the median a node may be and still be waited for
LONGEST_ROUND = 1.4  # times the thinnest level's round, up to which a fatter level is taken in any case
BLOCK = 8192  # nodes whose columns stay in a core's cache while all levels are compared


def plan(
    fleet: Fleet,
    workload: Workload,
    levels: Sequence[Compression],
    *,
    deadline_s: float = 0.0,
    down_ratio: float | None = None,
) -> FleetPlan:
    """Plan for the most progress a second; see the module for the rules."""
    counted = fleet.reachable
    if not counted.any():
        counted[:] = True
    sent_bytes = np.array([workload.model_bytes / level.expected_ratio for level in levels])
    down_s, up_s = (8 / bps for bps in (fleet.downlink_bps, fleet.uplink_bps))
    message_s = overhead_s(fleet, counted)
    fixed_s = ROUND_TRIPS * fleet.rtt_s + message_s
    if down_ratio:
        fixed_s += workload.model_bytes / down_ratio * down_s
        byte_s = up_s
    else:
        fixed_s += workload.common_bytes * down_s
        byte_s = up_s + down_s
    step_s: Floats = np.maximum(fleet.sample_s * workload.batch_size, 1e-9)
    level = np.full(len(fleet), len(levels) - 1, dtype=np.int64)
    steps, alike = workload.base_steps, 0
    # The steps that balance the transfers depend on the levels, and the levels on the steps.
    for _ in range(1 if workload.fixed else 2):
        if not workload.fixed:
            transfer_s = fixed_s + sent_bytes[level] * byte_s
            before, alike = alike, balanced_steps(transfer_s[counted], step_s[counted], within=workload.within)
            if alike == before:
                break  # and so are the levels
            steps = np.full(len(fleet), alike, dtype=np.int64)
        rest_s = fixed_s + step_s * steps
        level = best_levels(levels, sent_bytes, byte_s, rest_s, message_s, deadline_s or math.inf)
    compute_s = step_s * steps
    predicted_s = fixed_s + sent_bytes[level] * byte_s + compute_s
    typical_s = median(predicted_s[counted]) if len(fleet) else math.inf
    if not deadline_s:
        within_s = quantile(predicted_s[counted], DEADLINE_QUANTILE) if len(fleet) else math.inf
        deadline_s = min(within_s, FURTHEST_DEADLINE * typical_s)
    return FleetPlan(
        local_steps=steps,
        level=level,
        predicted_s=predicted_s,
        compute_s=compute_s,
        upload_s=sent_bytes[level] * up_s,
        deadline_s=deadline_s,
        longest_s=FURTHEST_NODE * typical_s,
        batch_size=workload.batch_size,
        levels=levels,
    )


def best_levels(
    levels: Sequence[Compression],
    sent_bytes: Floats,
    byte_s: Floats,
    rest_s: Floats,
    overhead_s: float,
    deadline_s: float,
) -> Ints:
    """Shape (N,): each node's level by the module's rule, as an index.

    A node's round takes ``rest_s + sent_bytes * byte_s``, of which ``overhead_s`` is Flower's.
    """
    chosen = np.empty(rest_s.size, dtype=np.int64)
    for start in range(0, rest_s.size, BLOCK):
        part = slice(start, start + BLOCK)
        chosen[part] = _best_in_block(levels, sent_bytes, byte_s[part], rest_s[part], overhead_s, deadline_s)
    return chosen


def _best_in_block(
    levels: Sequence[Compression],
    sent_bytes: Floats,
    byte_s: Floats,
    rest_s: Floats,
    overhead_s: float,
    deadline_s: float,
) -> Ints:
    thinnest, *fatter = _undominated(levels)
    gains = [level.fidelity**FIDELITY_EXPONENT for level in levels]
    thinnest_s = rest_s + sent_bytes[thinnest] * byte_s
    longest_s = np.minimum(LONGEST_ROUND * thinnest_s, deadline_s)
    chosen = np.full(rest_s.size, thinnest, dtype=np.int64)
    most = gains[thinnest] / (thinnest_s - overhead_s)
    for index in fatter:
        whole_s = rest_s + sent_bytes[index] * byte_s
        progress = gains[index] / (whole_s - overhead_s)
        better = progress > most
        if deadline_s < math.inf:
            better &= whole_s <= deadline_s
        np.putmask(chosen, better | (whole_s <= longest_s), index)  # numpy.copyto takes four times as long
        np.putmask(most, better, progress)
    return chosen


def _undominated(levels: Sequence[Compression]) -> list[int]:
    """Levels that are more faithful than every thinner one, thinnest first; others cost more without any gain."""
    kept = [len(levels) - 1]
    for index in reversed(range(len(levels) - 1)):
        if levels[index].fidelity > levels[kept[-1]].fidelity:
            kept.append(index)
    return kept


def balanced_steps(transfer_s: Floats, step_s: Floats, *, within: tuple[int, int] = (FEWEST_STEPS, MOST_STEPS)) -> int:
    """``clip(median transfer / median step, *within)``, rounded: the local steps at which both take the same time.

    Medians, because one node that claims a slow processor or link must not decide for all.
    """
    if not step_s.size:
        return within[0]
    fewest, most = within
    return int(min(max(np.rint(median(transfer_s) / median(step_s)), fewest), most))
