"""What a node found out about its link."""

from __future__ import annotations

from typing import Final

from flwr.app import RecordDict

from strategies.fleet.link import LinkSample
from strategies.wire import domains

LINK: Final = "link"  # MetricRecord, optional: a probe's findings

RTT_S: Final = "rtt-s"
JITTER_S: Final = "jitter-s"
LOSS_RATE: Final = "loss-rate"
UPLINK_BPS: Final = "uplink-bps"
DOWNLINK_BPS: Final = "downlink-bps"


def link_sample(content: RecordDict) -> LinkSample:
    """What a node found out about its link, where that is possible at all."""
    found = domains.possible(domains.numbers(content, LINK), domains.LINK)
    return LinkSample(*(found.get(key) for key in (RTT_S, JITTER_S, LOSS_RATE, UPLINK_BPS, DOWNLINK_BPS)))
