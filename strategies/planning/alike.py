"""The plan that the peers use: the same work for every node.

Names used here: N = known nodes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from strategies.fleet import Fleet
from strategies.planning.plans import Compression, FleetPlan, Workload
from strategies.planning.timing import overhead_s, round_s


def plan_alike(
    fleet: Fleet,
    workload: Workload,
    levels: Sequence[Compression],
    *,
    deadline_s: float = 0.0,
    down_ratio: float | None = None,
) -> FleetPlan:
    """The baseline round for every node: the baseline's steps, the fattest level, and only a given deadline."""
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
        overhead_s=overhead_s(fleet, np.ones(len(fleet), np.bool_)),
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
