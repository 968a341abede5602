"""What the server believes about one node's link, and how a new observation changes it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

GAIN = 0.3  # of an ordinary sample: about ten transfers of memory
WINDOW = 10  # transfers; a longer record of a link counts no more than this many
NOISE = 0.1  # lower bound of the log-deviation of goodput between transfers over an unchanged link
STEADY_SHARE = 0.9  # of a node's delivery record is kept at every new try
REFERENCE_RTT_S = 0.1
REFERENCE_BPS = 20e6

F = TypeVar("F", float, NDArray[np.float64])


@dataclass(frozen=True, slots=True)
class LinkSample:
    """The findings of one round trip; ``None`` where nothing was measured. ``jitter_s`` is only shown to people."""

    rtt_s: float | None = None
    jitter_s: float | None = None
    loss: float | None = None
    uplink_bps: float | None = None
    downlink_bps: float | None = None


@dataclass(frozen=True, slots=True)
class Goodput:
    """One direction of a link: smoothed rate, and its log-deviation between transfers.

    ``samples`` counts the transfers seen; 0 marks a pure prior.
    """

    bps: float = REFERENCE_BPS
    deviation: float = 1.0
    samples: int = 0

    def observe(self, bps: float) -> Goodput:
        """Fold in a transfer.

        An exponential average in the log domain, since links differ by factors. A sample further off than twice
        the usual deviation means that the link itself changed: the gain rises to ``1 - 2 deviation / |distance|``,
        so that most of a twentyfold change is adopted at once.
        """
        if not self.samples:
            return Goodput(bps, 2 * NOISE, 1)
        distance = math.log(bps / self.bps)
        gain = max(GAIN, 1 - 2 * self.deviation / max(abs(distance), 1e-12))
        return Goodput(
            bps=self.bps * math.exp(gain * distance),
            deviation=max(NOISE, 0.75 * self.deviation + 0.25 * min(1.0, abs(distance))),
            samples=self.samples + 1,
        )


@dataclass(frozen=True, slots=True)
class LinkEstimate:
    """Smoothed link of one node.

    ``successes`` and ``tries`` are the pseudo-counts of a Beta posterior on delivery, old evidence fading by
    ``STEADY_SHARE`` a try towards the prior of 4 in 5. ``samples`` counts round trips; 0 marks a pure prior.
    """

    rtt_s: float = REFERENCE_RTT_S
    jitter_s: float = REFERENCE_RTT_S / 2
    loss: float = 0.0
    uplink: Goodput = Goodput()
    downlink: Goodput = Goodput()
    successes: float = 4.0
    tries: float = 5.0
    samples: int = 0

    @property
    def delivery(self) -> float:
        """Expected share of this node's replies that arrive, the mean of the Beta posterior."""
        return self.successes / self.tries

    @property
    def pessimistic_rtt_s(self) -> float:
        """RTT that is rarely exceeded: ``SRTT + 4 RTTVAR`` (RFC 6298)."""
        return self.rtt_s + 4 * self.jitter_s


def quality(*, delivery: F, loss: F, rtt_s: F, uplink_bps: F) -> F:
    """Link quality in (0, 1]: ``delivery * (1 - loss) / (1 + rtt / 100 ms + 20 Mbit/s / uplink)``, at least 1e-6.

    ``rtt`` is the pessimistic one. A clean link of 100 ms and 20 Mbit/s has a third of its delivery rate; a
    perfect one tends to 1.
    """
    slowness = rtt_s / REFERENCE_RTT_S + REFERENCE_BPS / uplink_bps
    found: F = np.clip(delivery * (1 - loss) / (1 + slowness), 1e-6, 1.0)
    return found


def observe(link: LinkEstimate, sample: LinkSample) -> LinkEstimate:
    """Fold a delivered round trip into the estimate.

    RTT and its variation follow RFC 6298, section 2; goodput see ``Goodput``; loss is an exponential average.
    """
    rtt_s, jitter_s = link.rtt_s, link.jitter_s
    if sample.rtt_s is not None:
        if not link.samples:
            rtt_s, jitter_s = sample.rtt_s, sample.rtt_s / 2
        else:
            jitter_s = 0.75 * jitter_s + 0.25 * abs(rtt_s - sample.rtt_s)
            rtt_s = 0.875 * rtt_s + 0.125 * sample.rtt_s
    loss = link.loss if sample.loss is None else link.loss + (GAIN if link.samples else 1.0) * (sample.loss - link.loss)
    return _tried(
        replace(
            link,
            rtt_s=rtt_s,
            jitter_s=jitter_s,
            loss=loss,
            uplink=link.uplink if sample.uplink_bps is None else link.uplink.observe(sample.uplink_bps),
            downlink=link.downlink if sample.downlink_bps is None else link.downlink.observe(sample.downlink_bps),
            samples=link.samples + 1,
        ),
        delivered=1.0,
    )


def miss(link: LinkEstimate) -> LinkEstimate:
    """Record a reply that never came."""
    return _tried(link, delivered=0.0)


def _tried(link: LinkEstimate, *, delivered: float) -> LinkEstimate:
    prior_successes, prior_tries = 4.0, 5.0
    return replace(
        link,
        successes=prior_successes + STEADY_SHARE * (link.successes - prior_successes) + delivered,
        tries=prior_tries + STEADY_SHARE * (link.tries - prior_tries) + 1,
    )
