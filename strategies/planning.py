"""What each node is asked to do: local steps, codec level and deadline that fit its link and its GPU.

Names used here: N = known nodes, L = codec levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from strategies.fleet import Bools, Fleet, Floats, Ints
from strategies.payload import Level
from strategies.timing import round_s

DEADLINE_QUANTILE = 0.8  # four nodes in five can make the deadline at the thinnest level
MAX_STEPS_RATIO = 4  # more local work than this drifts away from the others' data and no longer pays


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
    """Plans of all N nodes, as columns."""

    local_steps: Ints
    level: Ints
    predicted_s: Floats
    deadline_s: float
    batch_size: int
    levels: Sequence[Level]

    def of(self, row: int) -> WorkPlan:
        """The plan of one node."""
        level = self.levels[int(self.level[row])].name
        return WorkPlan(int(self.local_steps[row]), self.batch_size, level, self.deadline_s)


def plan(fleet: Fleet, workload: Workload, levels: Sequence[Level], *, deadline_s: float = 0.0) -> FleetPlan:
    """Fit every node's round under one deadline.

    The deadline, unless given, is the 80th percentile of the nodes' shortest possible rounds. A node gets the
    fattest level with which it makes the deadline, then fills what is left with local steps, at most four times
    the baseline's.
    """
    seconds_LN = np.stack([_predict(fleet, workload, workload.base_steps, level.expected_ratio) for level in levels])
    if not deadline_s:
        deadline_s = float(np.quantile(seconds_LN[-1][fleet.online], DEADLINE_QUANTILE))
    fits_LN: Bools = seconds_LN <= deadline_s
    level = np.where(fits_LN.any(axis=0), fits_LN.argmax(axis=0), len(levels) - 1).astype(np.int64)
    chosen_s = np.take_along_axis(seconds_LN, level[None], axis=0)[0]
    step_s = np.maximum(fleet.sample_s * workload.batch_size, 1e-9)
    extra = np.floor(np.maximum(deadline_s - chosen_s, 0) / step_s)
    steps = np.minimum(workload.base_steps + extra, MAX_STEPS_RATIO * workload.base_steps).astype(np.int64)
    predicted_s = chosen_s + (steps - workload.base_steps) * step_s
    return FleetPlan(steps, level, predicted_s, deadline_s, workload.batch_size, levels)


def _predict(fleet: Fleet, workload: Workload, steps: Ints, ratio: float) -> Floats:
    payload_bytes = workload.model_bytes / ratio
    return round_s(
        bytes_down=payload_bytes,
        bytes_up=payload_bytes,
        samples=(steps * workload.batch_size).astype(np.float64),
        sample_s=fleet.sample_s,
        uplink_bps=fleet.uplink_bps,
        downlink_bps=fleet.downlink_bps,
        rtt_s=fleet.rtt_s,
    )
