"""What the server believes about one node's link, and how a new observation changes it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

GOODPUT_GAIN = 0.3  # about ten transfers of memory
REFERENCE_RTT_S = 0.1
REFERENCE_BPS = 20e6


@dataclass(frozen=True, slots=True)
class LinkSample:
    """One round trip's findings; ``None`` where nothing was measured."""

    rtt_s: float | None = None
    loss: float | None = None
    uplink_bps: float | None = None
    downlink_bps: float | None = None


@dataclass(frozen=True, slots=True)
class LinkEstimate:
    """Smoothed link of one node.

    ``successes`` and ``tries`` are the pseudo-counts of a Beta prior on delivery; ``samples`` counts the
    observations, so that 0 marks a pure prior.
    """

    rtt_s: float = REFERENCE_RTT_S
    jitter_s: float = REFERENCE_RTT_S / 2
    loss: float = 0.0
    uplink_bps: float = REFERENCE_BPS
    downlink_bps: float = REFERENCE_BPS
    successes: float = 4.0
    tries: float = 5.0
    samples: int = 0

    @property
    def delivery(self) -> float:
        """Expected share of this node's replies that arrive, the mean of the Beta posterior."""
        return self.successes / self.tries

    @property
    def pessimistic_rtt_s(self) -> float:
        """RTT not exceeded but rarely: ``SRTT + 4 RTTVAR`` (RFC 6298)."""
        return self.rtt_s + 4 * self.jitter_s

    @property
    def quality(self) -> float:
        """Link quality in (0, 1]: ``delivery * (1 - loss) / (1 + rtt / 100 ms + 20 Mbit/s / uplink)``.

        It is 1/3 of the delivery rate on a clean link of 100 ms and 20 Mbit/s, and tends to 1 on a perfect one.
        """
        slowness = self.pessimistic_rtt_s / REFERENCE_RTT_S + REFERENCE_BPS / self.uplink_bps
        return max(1e-6, self.delivery * (1 - self.loss) / (1 + slowness))


def observe(link: LinkEstimate, sample: LinkSample) -> LinkEstimate:
    """Fold a delivered round trip into the estimate.

    RTT and its variation follow RFC 6298, section 2; goodput is an exponential average in the log domain, since
    links differ by factors; loss is an exponential average.
    """
    first = link.samples == 0
    rtt_s, jitter_s = link.rtt_s, link.jitter_s
    if sample.rtt_s is not None:
        if first:
            rtt_s, jitter_s = sample.rtt_s, sample.rtt_s / 2
        else:
            jitter_s = 0.75 * jitter_s + 0.25 * abs(rtt_s - sample.rtt_s)
            rtt_s = 0.875 * rtt_s + 0.125 * sample.rtt_s
    return replace(
        link,
        rtt_s=rtt_s,
        jitter_s=jitter_s,
        loss=link.loss if sample.loss is None else _blend(link.loss, sample.loss, first),
        uplink_bps=_geometric(link.uplink_bps, sample.uplink_bps, first),
        downlink_bps=_geometric(link.downlink_bps, sample.downlink_bps, first),
        successes=link.successes + 1,
        tries=link.tries + 1,
        samples=link.samples + 1,
    )


def miss(link: LinkEstimate) -> LinkEstimate:
    """Record a reply that never came."""
    return replace(link, tries=link.tries + 1)


def _blend(old: float, new: float, first: bool) -> float:
    return new if first else (1 - GOODPUT_GAIN) * old + GOODPUT_GAIN * new


def _geometric(old_bps: float, new_bps: float | None, first: bool) -> float:
    if new_bps is None:
        return old_bps
    return math.exp(_blend(math.log(old_bps), math.log(new_bps), first))
