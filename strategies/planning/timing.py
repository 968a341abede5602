"""Predicted seconds of a node's round under a plan."""

from __future__ import annotations

import numpy as np

from strategies.fleet import Bools, Fleet, Floats
from strategies.quantiles import median, quantile

DEADLINE_QUANTILE = 0.8  # four nodes in five make the deadline
FURTHEST_OVERHEAD = 2.0  # times the median
ROUND_TRIPS = 3.0  # connection, request, acknowledgement of the last byte


def round_s(
    *,
    bytes_down: Floats | float,
    bytes_up: Floats | float,
    samples: Floats | float,
    sample_s: Floats,
    uplink_bps: Floats,
    downlink_bps: Floats,
    rtt_s: Floats,
    overhead_s: Floats | float = 0.0,
) -> Floats:
    """``overhead_s + samples * sample_s + 8 down / downlink + 8 up / uplink + 3 rtt`` in seconds, for every node.

    ``overhead_s`` is Flower's own cost of a message: polling for it and starting a Python process.
    First-order model: slow start and queueing are ignored, so it is a lower bound on a shared link.
    """
    transfer_s = 8 * bytes_down / downlink_bps + 8 * bytes_up / uplink_bps
    return np.asarray(overhead_s + samples * sample_s + transfer_s + ROUND_TRIPS * rtt_s, dtype=np.float64)


def overhead_s(fleet: Fleet, counted: Bools) -> float:
    """Seconds of a message besides work and transfer: one value for all nodes, which differ mostly by chance.

    It is in every node's prediction, and a node makes its own as long as it likes by answering late. So it is bounded
    by twice the median.
    """
    if not counted.any():
        return 0.0
    observed_s = fleet.overhead_s[counted]
    return min(quantile(observed_s, DEADLINE_QUANTILE), FURTHEST_OVERHEAD * median(observed_s))
