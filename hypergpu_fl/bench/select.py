"""What a round's decisions cost: selecting and planning over a whole fleet, without any message."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hypergpu_fl.codec.payload import COMPRESSIONS
from strategies.fleet import Fleet
from strategies.fleet.link import Goodput, LinkEstimate
from strategies.planning import Workload, plan
from strategies.prose import amount
from strategies.selection import policy

Progress = Callable[[str], None]
Row = dict[str, Any]
MODEL_BYTES = 45_000_000
SEED = 0


def run_select(
    *,
    nodes: Sequence[int] = (100, 1_000, 10_000, 100_000),
    cohort: int = 100,
    repeats: int = 15,
    policy_name: str = "network_aware",
    progress: Progress = lambda line: None,
) -> list[Row]:
    """Rows ``{nodes, seconds}``: the time of everything that a round decides before its first message.

    That is refitting the prior, updating the beliefs about every link, planning every node at every codec level, and
    selecting the cohort. The median of ``repeats`` rounds counts.
    """
    rows: list[Row] = []
    for count in nodes:
        seconds = measure(count, cohort=cohort, repeats=repeats, policy_name=policy_name)
        rows.append({"nodes": count, "seconds": seconds})
        progress(f"{amount(count, 'node'):>13}: {1e3 * seconds:.2f} ms")
    return rows


def measure(count: int, *, cohort: int, repeats: int, policy_name: str) -> float:
    """Median seconds of a round's decisions over ``count`` nodes."""
    rng = np.random.default_rng(SEED)
    fleet = population(count, rng)
    workload = Workload(np.maximum(1, fleet.examples // 32), 32, MODEL_BYTES)
    chosen = policy(policy_name)
    taken = []
    for round in range(1, repeats + 1):
        start_s = time.perf_counter()
        fleet.learn_priors()
        fleet.believe(round)
        made = plan(fleet, workload, COMPRESSIONS)
        rows = chosen.select(fleet, fleet.available(), made, cohort=cohort, round=round, rng=rng).rows
        taken.append(time.perf_counter() - start_s)
        fleet.last_round[rows] = fleet.last_seen[rows] = round
        fleet.selections[rows] += 1
        fleet.owed += fleet.examples / fleet.examples.sum()
        fleet.owed[rows] -= 1 / rows.size
        chosen.closed(fleet, round=round, selected=rows, arrived=rows)
    return statistics.median(taken)


def population(count: int, rng: np.random.Generator) -> Fleet:
    """A fleet in the middle of a run: log-normal links, a tenth of the nodes at work, a tenth offline."""
    fleet = Fleet()
    z_N3 = rng.standard_normal((count, 3))
    links = [
        LinkEstimate(rtt_s=0.08 * math.exp(0.5 * r), uplink=_seen(20e6, u), downlink=_seen(50e6, d), samples=5)
        for r, u, d in z_N3.tolist()
    ]
    examples = (100 * np.exp(0.8 * rng.standard_normal(count))).astype(np.int64) + 1
    names = [f"node-{i}" for i in range(count)]
    fleet.enrol_all(names, examples=examples.tolist(), sample_s=[0.004] * count, links=links)
    fleet.rms_loss[:] = rng.lognormal(0.0, 0.3, count)
    fleet.selections[:] = 1
    fleet.orders[:], fleet.online[:] = rng.random((2, count)) < [[0.1], [0.9]]
    return fleet


def _seen(bps: float, z: float) -> Goodput:
    rate = bps * math.exp(1.4 * z)
    return Goodput(rate, 0.2, 5)
