"""The rate of a link's bottleneck, from how a short transfer progressed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LEAST_TRAIN_BYTES = 12_000
LEAST_PAUSE_S = 0.025  # shorter pauses come from the scheduler, not from the link
BLOCKS, STEPS_A_BLOCK = 8, 4
USUAL_STEPS = 4  # a pause is longer than this many usual steps, which are long on a slow link


def bottleneck_bps(progress: Sequence[tuple[float, int]], *, rtt_s: float) -> float | None:
    """Bits per second at which the slowest link passes a burst.

    A transfer of a second spends most of its time in slow start, so bytes over seconds is far too low. But the
    packets of one flight leave the bottleneck back to back, at its rate, and so do their acknowledgements (packet
    trains; Jain and Dovrolis 2002, "End-to-end available bandwidth"). The rate is that of the longest train, the bytes
    between two pauses of half a round trip. Only the second half of the transfer is used: there flights are long, and
    initial allowances (token buckets, empty queues) are used up. The train is cut into eighths and their median rate
    is taken, since a stall and the burst that follows it each fall into one eighth.

    Parameters
    ----------
    progress : sequence of (float, int)
        Seconds on one clock, and bytes delivered until then; both never decrease.
    rtt_s : float
        Round trip in seconds.

    Returns
    -------
    float or None
        None when too little was delivered to tell.
    """
    moved = [step for k, step in enumerate(progress) if k == 0 or step[1] > progress[k - 1][1]]
    if len(moved) < 3:
        return None
    t_K, b_K = (np.asarray(column, dtype=np.float64) for column in zip(*moved, strict=True))  # K = steps of progress
    later = b_K >= (b_K[0] + b_K[-1]) / 2
    t_K, b_K = t_K[later], b_K[later]
    if len(t_K) < 2:
        return None
    steps_s = np.diff(t_K)
    pauses = np.flatnonzero(steps_s > max(LEAST_PAUSE_S, rtt_s / 2, USUAL_STEPS * float(np.median(steps_s))))
    first, last = np.append(0, pauses + 1), np.append(pauses, len(t_K) - 1)
    longest = int((b_K[last] - b_K[first]).argmax())
    t_K, b_K = (column[first[longest] : last[longest] + 1] for column in (t_K, b_K))
    if b_K[-1] - b_K[0] < LEAST_TRAIN_BYTES:
        return None
    blocks = min(BLOCKS, max(1, len(b_K) // STEPS_A_BLOCK))
    edges_s = np.interp(np.linspace(b_K[0], b_K[-1], blocks + 1), b_K, t_K)
    return float(8 * (b_K[-1] - b_K[0]) / blocks / np.median(np.diff(edges_s)))
