"""What one reply shows about the node that sent it. A node's own claims count only where they are possible."""

from __future__ import annotations

import math
from collections.abc import Mapping

from flwr.app import Message, RecordDict

from strategies import wire
from strategies.fleet import Fleet
from strategies.flight import Flight
from strategies.link import LinkSample
from strategies.timing import ROUND_TRIPS

LARGEST_SAMPLE_S = 1e4
LARGEST_BPS = 1e12
LARGEST_RTT_S = 60.0
RISING_GAIN, FALLING_GAIN = 0.5, 0.2  # a deadline set on the mean would miss every second reply


def learn(
    fleet: Fleet,
    row: int,
    reply: Message,
    flight: Flight,
    metrics: Mapping[str, float],
    *,
    round: int,
    byte_scale: float = 1.0,
) -> None:
    """Fold what this round trip showed into the node's row.

    The server's own timing goes over the node's; no part of a round trip can have lasted longer than the whole.
    """
    measured = wire.numbers(reply.content, wire.TIMING)
    probed = wire.numbers(reply.content, wire.LINK)
    elapsed_s = measured[wire.ARRIVED_S] - measured[wire.SENT_S]
    timing = {**metrics, **measured}

    def lasted(key: str, source: Mapping[str, float]) -> float | None:
        seconds = source.get(key, 0.0)
        return seconds if 0 < seconds <= elapsed_s + 1e-9 else None

    def rate_bps(size: str, key: str, probe: str) -> float | None:
        seconds = lasted(key, timing)
        rate = 8 * byte_scale * timing.get(size, 0.0) / seconds if seconds else probed.get(probe, 0.0)
        return _rate(rate)

    sample = LinkSample(
        rtt_s=lasted(wire.RTT_S, measured) or lasted(wire.RTT_S, probed),
        loss=_loss(probed),
        uplink_bps=rate_bps(wire.BYTES_UP, wire.UPLOAD_S, wire.UPLINK_BPS),
        downlink_bps=rate_bps(wire.BYTES_DOWN, wire.DOWNLOAD_S, wire.DOWNLINK_BPS),
    )
    fleet.observe(row, sample, round=round)
    samples, compute_s = metrics.get(wire.SAMPLES, 0.0), lasted(wire.COMPUTE_S, timing)
    if samples >= 1 and compute_s and compute_s / samples < LARGEST_SAMPLE_S:
        fleet.sample_s[row] = compute_s / samples
    if wire.DOWNLOAD_S not in measured:  # the wall clock; a virtual one accounts for every second
        link = fleet.links[row]
        transfer_s = lasted(wire.UPLOAD_S, measured) or 8 * measured[wire.BYTES_UP] / link.uplink.bps
        transfer_s += 8 * measured[wire.BYTES_DOWN] / link.downlink.bps
        rest_s = max(0.0, elapsed_s - transfer_s - (compute_s or 0.0) - ROUND_TRIPS * link.rtt_s)
        gain = RISING_GAIN if rest_s > fleet.overhead_s[row] else FALLING_GAIN
        fleet.overhead_s[row] += gain * (rest_s - fleet.overhead_s[row])
    if wire.LOSS in metrics:
        fleet.loss[row] = metrics[wire.LOSS]
    if (squared := metrics.get(wire.SQUARED_LOSS, -1.0)) >= 0:
        fleet.rms_loss[row] = math.sqrt(squared)


def learn_probe(fleet: Fleet, row: int, content: RecordDict, *, round: int = 0) -> None:
    """Fold a probe that came without any work, such as with a node's first answer, into its row."""
    probed = wire.numbers(content, wire.LINK)
    if probed:
        rtt_s = probed.get(wire.RTT_S, 0.0)
        sample = LinkSample(
            rtt_s=rtt_s if 0 < rtt_s < LARGEST_RTT_S else None,
            loss=_loss(probed),
            uplink_bps=_rate(probed.get(wire.UPLINK_BPS, 0.0)),
            downlink_bps=_rate(probed.get(wire.DOWNLINK_BPS, 0.0)),
        )
        fleet.probe(row, sample, round=round)


def _loss(probed: Mapping[str, float]) -> float | None:
    loss_rate = probed.get(wire.LOSS_RATE)
    return min(1.0, max(0.0, loss_rate)) if loss_rate is not None else None


def _rate(bps: float) -> float | None:
    return bps if 0 < bps < LARGEST_BPS else None
