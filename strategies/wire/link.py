"""What a node found out about its link."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from flwr.app import RecordDict

from strategies.fleet.link import LinkSample
from strategies.wire.domains import Domain, numbers, possible

LINK: Final = "link"  # MetricRecord, optional: a probe's findings

RTT_S: Final = "rtt-s"
JITTER_S: Final = "jitter-s"
LOSS_RATE: Final = "loss-rate"
UPLINK_BPS: Final = "uplink-bps"
DOWNLINK_BPS: Final = "downlink-bps"

# A link slower than 1 kbit/s, or faster than 1 Tbit/s, is a mistake or a lie.
DOMAINS: Final[Mapping[str, Domain]] = {
    RTT_S: Domain(1e-7, 60.0, "seconds"),
    JITTER_S: Domain(0.0, 60.0, "seconds"),
    LOSS_RATE: Domain(0.0, 1.0, "lost packets a packet"),
    UPLINK_BPS: Domain(1e3, 1e12, "bits a second"),
    DOWNLINK_BPS: Domain(1e3, 1e12, "bits a second"),
}


def link_sample(content: RecordDict) -> LinkSample:
    """The possible values among a node's findings about its link."""
    found = possible(numbers(content, LINK), DOMAINS)
    return LinkSample(*(found.get(key) for key in DOMAINS))
