"""Simulated internet links: how long a message takes, in virtual time, deterministic for a seed.

First-order model: each node has one link of its own to the server, which is never the bottleneck; slow start and
cross traffic are left out, so short transfers come out a little too fast.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from strategies.arrivals import Passage

MSS_BYTES = 1460
MATHIS = 1.22  # sqrt(3/2), Mathis et al. 1997, "The macroscopic behavior of the TCP congestion avoidance algorithm"
DROP_NOTICED_S = 45.0  # a SuperLink notices a vanished SuperNode after 37-60 s


@dataclass(frozen=True, slots=True)
class SimulatedLink:
    """The true link and processor of one simulated node. ``drop_rate``: probability that a reply is lost."""

    rtt_s: float
    jitter_s: float
    loss: float
    uplink_bps: float
    downlink_bps: float
    sample_s: float
    drop_rate: float = 0.0


@dataclass(frozen=True, slots=True)
class Profile:
    """A population of links. Bandwidth, RTT and compute are log-normal: ``median * exp(sigma * z)``."""

    rtt_s: float
    rtt_sigma: float
    jitter_ratio: float
    loss: float
    uplink_bps: float
    uplink_sigma: float
    downlink_ratio: float
    sample_s: float
    sample_sigma: float
    drop_rate: float = 0.0


PROFILES = {
    "lan": Profile(0.001, 0.2, 0.1, 0.0, 1e9, 0.1, 1.0, 0.002, 0.3),
    "broadband": Profile(0.04, 0.6, 0.1, 0.0005, 20e6, 1.0, 4.0, 0.004, 0.5),
    "intercontinental": Profile(0.18, 0.4, 0.05, 0.001, 50e6, 1.0, 2.0, 0.004, 0.5),
    "mobile": Profile(0.07, 0.5, 0.4, 0.005, 8e6, 0.9, 4.0, 0.02, 0.6, 0.02),
    "flaky": Profile(0.12, 0.8, 0.6, 0.02, 10e6, 1.2, 3.0, 0.008, 0.8, 0.15),
    "silo": Profile(0.08, 0.5, 0.1, 0.0, 20e6, 1.4, 2.5, 0.004, 0.0),
}


def draw_links(profile: Profile, nodes: int, *, seed: int) -> list[SimulatedLink]:
    """``nodes`` independent links of one population."""
    z_N4 = np.random.default_rng([seed, 0x11]).standard_normal((nodes, 4))
    links = []
    for rtt_z, up_z, down_z, sample_z in z_N4:
        rtt_s = profile.rtt_s * math.exp(profile.rtt_sigma * rtt_z)
        uplink_bps = profile.uplink_bps * math.exp(profile.uplink_sigma * up_z)
        links.append(
            SimulatedLink(
                rtt_s=rtt_s,
                jitter_s=rtt_s * profile.jitter_ratio,
                loss=profile.loss,
                uplink_bps=uplink_bps,
                downlink_bps=uplink_bps * profile.downlink_ratio * math.exp(0.1 * down_z),
                sample_s=profile.sample_s * math.exp(profile.sample_sigma * sample_z),
                drop_rate=profile.drop_rate,
            )
        )
    return links


def tcp_bps(bandwidth_bps: float, rtt_s: float, loss: float) -> float:
    """Goodput of one TCP connection: the link's bandwidth, or Mathis' ``1.22 MSS / (RTT sqrt(p))`` if that is less."""
    if loss <= 0 or rtt_s <= 0:
        return bandwidth_bps
    return min(bandwidth_bps, MATHIS * 8 * MSS_BYTES / (rtt_s * math.sqrt(loss)))


class SimulatedWan:
    """Answers ``strategies.arrivals.VirtualLinks`` from a list of links.

    Randomness is keyed by (seed, node, number of the node's message), so that it does not depend on the order in which
    nodes are asked.

    Parameters
    ----------
    links : sequence of SimulatedLink
        One a node, by its row.
    row_of : callable
        Row of a Flower node id, or None while the node is not enrolled; its messages then take no time.
    seed : int
        Seeds jitter and drop-outs.
    byte_scale : float
        Multiplies payloads, so that a small model can stand for a large one in benchmarks.
    """

    def __init__(
        self,
        links: Sequence[SimulatedLink],
        row_of: Callable[[int], int | None],
        *,
        seed: int,
        byte_scale: float = 1.0,
    ) -> None:
        self._links = links
        self._row_of = row_of
        self._seed = seed
        self._byte_scale = byte_scale
        self._messages: Counter[int] = Counter()

    def passage(self, node_id: int, *, sent_s: float, bytes_down: int, bytes_up: int, samples: float) -> Passage:
        """See ``strategies.arrivals.VirtualLinks.passage``."""
        row = self._row_of(node_id)
        if row is None:
            return Passage(0.0, 0.0, 0.0, 0.0)
        link = self._links[row]
        rng = np.random.default_rng([self._seed, 0x22, row, self._messages[row]])
        self._messages[row] += 1
        rtt_s = link.rtt_s + link.jitter_s * abs(float(rng.standard_normal()))
        if rng.random() < link.drop_rate:
            return Passage(DROP_NOTICED_S, 0.0, 0.0, rtt_s, delivered=False)
        down_bits, up_bits = 8 * self._byte_scale * bytes_down, 8 * self._byte_scale * bytes_up
        return Passage(
            download_s=down_bits / tcp_bps(link.downlink_bps, rtt_s, link.loss),
            compute_s=samples * link.sample_s,
            upload_s=up_bits / tcp_bps(link.uplink_bps, rtt_s, link.loss),
            rtt_s=rtt_s,
        )
