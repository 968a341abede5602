"""What each node is asked to do: local steps, codec level and deadline that fit its link and its GPU.

Names used here: N = known nodes, L = codec levels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from strategies.fleet import Fleet, Floats, Ints
from strategies.payload import Level
from strategies.timing import round_s

DEADLINE_QUANTILE = 0.8  # four nodes in five can make the deadline at the thinnest level
MAX_STEPS_RATIO = 4.0  # more local work than this drifts away from the others' data and no longer pays


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
        """The plan of one node."""
        level = self.levels[int(self.level[row])].name
        return WorkPlan(int(self.local_steps[row]), self.batch_size, level, self.deadline_s)


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

        ``levels`` run from fattest to thinnest. ``down_ratio``, where given, fixes how far the downlink is
        compressed; otherwise it is as far as the uplink.
        """
        ...


def plan(
    fleet: Fleet,
    workload: Workload,
    levels: Sequence[Level],
    *,
    deadline_s: float = 0.0,
    down_ratio: float | None = None,
    most_steps: float = MAX_STEPS_RATIO,
) -> FleetPlan:
    """Fit every node's round under one deadline.

    The deadline, unless given, is the 80th percentile of the reachable nodes' shortest possible rounds. A node gets
    the fattest level with which it makes the deadline, then fills what is left with local steps, at most
    ``most_steps`` times the baseline's.

    What messages cost besides work and transfer, the 80th percentile over the nodes, is added to the deadline and to
    every prediction alike: it differs between nodes mostly by chance, and no codec level makes up for it.
    """
    counted = fleet.reachable if fleet.reachable.any() else np.ones(len(fleet), np.bool_)
    overhead_s = float(np.quantile(fleet.overhead_s[counted], DEADLINE_QUANTILE)) if len(fleet) else 0.0
    up_LN = np.stack([8 * workload.model_bytes / level.expected_ratio / fleet.uplink_bps for level in levels])
    compute_N = workload.base_steps * (workload.batch_size * fleet.sample_s)
    seconds_LN = np.stack(
        [
            round_s(
                bytes_down=workload.model_bytes / (down_ratio or level.expected_ratio),
                bytes_up=workload.model_bytes / level.expected_ratio,
                samples=(workload.base_steps * workload.batch_size).astype(np.float64),
                sample_s=fleet.sample_s,
                uplink_bps=fleet.uplink_bps,
                downlink_bps=fleet.downlink_bps,
                rtt_s=fleet.rtt_s,
                overhead_s=overhead_s,
            )
            for level in levels
        ]
    )
    if not deadline_s:
        deadline_s = float(np.quantile(seconds_LN[-1][counted], DEADLINE_QUANTILE)) if len(fleet) else math.inf
    fits_LN = seconds_LN <= deadline_s
    level = np.where(fits_LN.any(axis=0), fits_LN.argmax(axis=0), len(levels) - 1).astype(np.int64)
    chosen_s = np.take_along_axis(seconds_LN, level[None], axis=0)[0]
    step_s = np.maximum(fleet.sample_s * workload.batch_size, 1e-9)
    extra = np.floor(np.maximum(deadline_s - chosen_s, 0) / step_s)
    steps = np.maximum(1, np.minimum(workload.base_steps + extra, most_steps * workload.base_steps)).astype(np.int64)
    compute_s = steps * step_s
    return FleetPlan(
        local_steps=steps,
        level=level,
        predicted_s=chosen_s + compute_s - compute_N,
        compute_s=compute_s,
        upload_s=np.take_along_axis(up_LN, level[None], axis=0)[0],
        deadline_s=deadline_s,
        batch_size=workload.batch_size,
        levels=levels,
    )


def plan_alike(
    fleet: Fleet,
    workload: Workload,
    levels: Sequence[Level],
    *,
    deadline_s: float = 0.0,
    down_ratio: float | None = None,
) -> FleetPlan:
    """The baseline round for every node: the baseline's steps, the fattest level, and no deadline but a given one."""
    alike = plan(fleet, workload, levels[:1], deadline_s=math.inf, down_ratio=down_ratio, most_steps=1.0)
    return replace(alike, deadline_s=deadline_s or math.inf)


def thinned(levels: Sequence[Level], name: str, keep: float) -> str:
    """The fattest level that sends no more than the share ``keep`` of what level ``name`` sends; else the thinnest."""
    ratio = next(level.expected_ratio for level in levels if level.name == name) / keep
    thin_enough = [level for level in levels if level.expected_ratio >= ratio * (1 - 1e-9)]
    return min(thin_enough, key=lambda level: level.expected_ratio, default=levels[-1]).name
