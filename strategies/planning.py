"""What each node is asked to do: local steps, codec level and deadline that fit its link and its GPU.

Names used here: N = known nodes, L = codec levels.

What is sought is progress a second. Three rules give it, each from the links and processors as they are believed to
be (transfers include round trips and what Flower itself costs a message), none tuned to a data set:

*Codec.* A node's round should not wait for bytes that teach little. A node gets the fattest level that makes its own
round at most ``1 + LEVEL_SLACK`` times as long as the thinnest one would, and no longer than a given deadline if it
can help it; with error feedback (`hypergpu_fl.codec`) what is left out comes later.

*Local steps.* The progress of an update grows with its local steps s about as ``s ** 0.5`` until client drift ends it
(measured here: to a given accuracy, 4 times the steps took half the updates). If a node's transfers take T and a
step t seconds, progress a second ``s ** b / (T + s t)`` is greatest at ``s = b / (1 - b) * T / t``, which for b = 1/2
is ``T / t``: compute for as long as the transfers take. All nodes get the same number, from the means of T and t over
the fleet, since updates of unlike length, even normalised, were seen to pull the model apart.

*Deadline.* Unless given, the 80th percentile of the nodes' rounds so planned. Where rounds have no barrier it cuts
nobody off: a slower node is told the time it is predicted to need.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from strategies.fleet import Bools, Fleet, Floats, Ints
from strategies.payload import Level
from strategies.timing import ROUND_TRIPS, round_s

DEADLINE_QUANTILE = 0.8  # four nodes in five make the deadline
LEVEL_SLACK = 0.25
FEWEST_STEPS = 5  # below, the noise of single batches outweighs what shorter rounds gain
MOST_STEPS = 20  # beyond, local models drift apart and more work no longer pays


@dataclass(frozen=True, slots=True)
class WorkPlan:
    """One node's work in one round."""

    local_steps: int
    batch_size: int
    codec: str
    deadline_s: float


@dataclass(frozen=True, slots=True)
class Workload:
    """What the baseline round would be: steps of ``batch_size``, and the model's size as fp32."""

    base_steps: Ints  # (N,)
    batch_size: int
    model_bytes: int


@dataclass(frozen=True)
class FleetPlan:
    """Plans of all N nodes, as columns. ``compute_s`` and ``upload_s`` are parts of ``predicted_s``."""

    local_steps: Ints
    level: Ints
    predicted_s: Floats
    compute_s: Floats
    upload_s: Floats
    deadline_s: float
    batch_size: int
    levels: Sequence[Level]

    def of(self, row: int) -> WorkPlan:
        """The plan of one node; its deadline is never shorter than what it is predicted to need."""
        level = self.levels[int(self.level[row])].name
        deadline_s = max(self.deadline_s, float(self.predicted_s[row]))
        return WorkPlan(int(self.local_steps[row]), self.batch_size, level, deadline_s)


class Planner(Protocol):
    """Plans all nodes' next round; ``deadline_s`` 0 leaves the deadline to the planner."""

    def __call__(
        self,
        fleet: Fleet,
        workload: Workload,
        levels: Sequence[Level],
        *,
        deadline_s: float = 0.0,
        down_ratio: float | None = None,
    ) -> FleetPlan:
        """Plans of all nodes of ``fleet``.

        ``levels`` run from fattest to thinnest. ``down_ratio``, where given, is how far downloads are compressed at
        best; otherwise they are as far as uploads.
        """
        ...


def plan(
    fleet: Fleet,
    workload: Workload,
    levels: Sequence[Level],
    *,
    deadline_s: float = 0.0,
    down_ratio: float | None = None,
) -> FleetPlan:
    """Plan for the most progress a second; see the module for the rules."""
    ratios = np.array([level.expected_ratio for level in levels])
    counted = fleet.reachable if fleet.reachable.any() else np.ones(len(fleet), np.bool_)
    down_s, up_s = (8 * workload.model_bytes / bps for bps in (fleet.downlink_bps, fleet.uplink_bps))
    fixed_s = ROUND_TRIPS * fleet.rtt_s + _overhead_s(fleet, counted)

    def transfer_s(rows: Ints | slice, ratio: float) -> Floats:
        seconds = fixed_s[rows] + down_s[rows] / min(down_ratio or ratio, ratio) + up_s[rows] / ratio
        return np.asarray(seconds, dtype=np.float64)

    step_s = np.maximum(fleet.sample_s * workload.batch_size, 1e-9)
    predicted_s = transfer_s(slice(None), ratios[-1])
    steps = balanced_steps(predicted_s[counted], step_s[counted])
    compute_s = steps * step_s
    predicted_s += compute_s
    longest_s = np.minimum((1 + LEVEL_SLACK) * predicted_s, np.maximum(predicted_s, deadline_s or math.inf))
    level = np.full(len(fleet), len(levels) - 1, dtype=np.int64)
    rows = np.arange(len(fleet))
    for fatter in reversed(range(len(levels) - 1)):  # whom a level does not fit, no fatter one does
        fatter_s = transfer_s(rows, ratios[fatter]) + compute_s[rows]
        fits = fatter_s <= longest_s[rows]
        rows = rows[fits]
        level[rows], predicted_s[rows] = fatter, fatter_s[fits]
    if not deadline_s:
        deadline_s = float(np.quantile(predicted_s[counted], DEADLINE_QUANTILE)) if len(fleet) else math.inf
    return FleetPlan(
        local_steps=np.full(len(fleet), steps, dtype=np.int64),
        level=level,
        predicted_s=predicted_s,
        compute_s=compute_s,
        upload_s=up_s / ratios[level],
        deadline_s=deadline_s,
        batch_size=workload.batch_size,
        levels=levels,
    )


def balanced_steps(transfer_s: Floats, step_s: Floats) -> int:
    """``clip(mean transfer / mean step, 5, 20)``, rounded: the local steps at which both take the same time."""
    if not step_s.size:
        return FEWEST_STEPS
    return int(np.clip(np.rint(transfer_s.mean() / step_s.mean()), FEWEST_STEPS, MOST_STEPS))


def plan_alike(
    fleet: Fleet,
    workload: Workload,
    levels: Sequence[Level],
    *,
    deadline_s: float = 0.0,
    down_ratio: float | None = None,
) -> FleetPlan:
    """The baseline round for every node: the baseline's steps, the fattest level, and no deadline but a given one."""
    ratio = levels[0].expected_ratio
    compute_s = workload.base_steps * workload.batch_size * fleet.sample_s
    alike_s = round_s(
        bytes_down=workload.model_bytes / (down_ratio or ratio),
        bytes_up=workload.model_bytes / ratio,
        samples=(workload.base_steps * workload.batch_size).astype(np.float64),
        sample_s=fleet.sample_s,
        uplink_bps=fleet.uplink_bps,
        downlink_bps=fleet.downlink_bps,
        rtt_s=fleet.rtt_s,
        overhead_s=_overhead_s(fleet, np.ones(len(fleet), np.bool_)),
    )
    return FleetPlan(
        local_steps=workload.base_steps,
        level=np.zeros(len(fleet), dtype=np.int64),
        predicted_s=alike_s,
        compute_s=compute_s,
        upload_s=8 * workload.model_bytes / ratio / fleet.uplink_bps,
        deadline_s=deadline_s or math.inf,
        batch_size=workload.batch_size,
        levels=levels,
    )


def _overhead_s(fleet: Fleet, counted: Bools) -> float:
    """What messages cost besides work and transfer, alike for all: it differs between nodes mostly by chance."""
    return float(np.quantile(fleet.overhead_s[counted], DEADLINE_QUANTILE)) if counted.any() else 0.0


def thinned(levels: Sequence[Level], name: str, keep: float) -> str:
    """The fattest level that sends no more than the share ``keep`` of what level ``name`` sends; else the thinnest."""
    ratio = next(level.expected_ratio for level in levels if level.name == name) / keep
    thin_enough = [level for level in levels if level.expected_ratio >= ratio * (1 - 1e-9)]
    return min(thin_enough, key=lambda level: level.expected_ratio, default=levels[-1]).name
