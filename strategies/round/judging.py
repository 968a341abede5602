"""Judges one reply: what it shows of its node, whether it counts, and how much."""

from __future__ import annotations

import math

from strategies.errors import Reason, Refused
from strategies.fleet import Fleet
from strategies.fleet.health import answered
from strategies.fleet.link import LinkSample
from strategies.planning.timing import ROUND_TRIPS
from strategies.round.commands import AddUpdate
from strategies.round.events import Answered, Reading
from strategies.round.histories import Shown, is_nothing
from strategies.round.state import OpenOrder, OpenRound, State

LARGEST_SAMPLE_S = 1e4
LARGEST_BPS = 1e12
RISING_GAIN, FALLING_GAIN = 0.5, 0.2  # a deadline set on the mean would miss every second reply


def judge(state: State, open_: OpenRound, order: OpenOrder, event: Answered) -> AddUpdate:
    """Book a reply to ``order`` as one that counts. Raises ``Refused``, with the reason, for one that must not."""
    fleet, row, settings, reading = state.fleet, order.row, state.rules.settings, event.reading
    if reading is not None:
        open_.bytes_up += reading.blob_bytes
        learn(fleet, row, reading, round=open_.round, byte_scale=settings.byte_scale)
        if order.round < open_.round and not settings.keep_late:
            raise Refused(Reason.TOO_LATE, f"ordered in round {order.round}; late updates are not kept")
        staleness = state.versions.staleness(order.base)
    if event.fault is not None:
        raise Refused(event.fault.reason, event.fault.detail)
    if reading is None or reading.norm is None:
        raise Refused(Reason.MALFORMED, "no update could be read")
    nothing = is_nothing(reading.norm, model_norm=state.versions.norm)
    length = 1.0
    if not nothing:
        state.norms.add(row, reading.norm, order.steps)
        if settings.refuse_outliers:
            length = state.norms.length(row, reading.norm, order.steps, model_norm=state.versions.norm)
    shown = Shown(reading.digest, reading.sketch, order.start, order.round)
    state.replays.hear(row, shown, nothing=nothing)
    state.replays.check(row)
    weighed = state.accounts.weigh(fleet, row, staleness=staleness)
    state.accounts.settle(fleet, row, weighed)
    fleet.update_norm[row] = reading.norm
    state.replays.add(row, shown)
    fleet.held[row], fleet.acknowledged[row] = order.base, order.round
    open_.late += order.round < open_.round
    open_.added.append(row)
    open_.weights.append(weighed.weight)
    steps = order.steps if settings.normalise_steps else 1
    return AddUpdate(event.order, row, weighed.weight, steps, length, staleness)


def learn(fleet: Fleet, row: int, reading: Reading, *, round: int, byte_scale: float = 1.0) -> None:
    """Fold what a round trip showed into the node's row. A node's own claims are used only if they are possible.

    The server's measurements take precedence over the node's. No part of a round trip can last longer than the whole.
    """

    def lasted(seconds: float | None) -> float | None:
        return seconds if seconds is not None and 0 < seconds <= reading.elapsed_s + 1e-9 else None

    def rate_bps(size: float, seconds: float | None, probed_bps: float | None) -> float | None:
        lasted_s = lasted(seconds)
        rate = 8 * byte_scale * size / lasted_s if lasted_s else (probed_bps or 0.0)
        return rate if 0 < rate < LARGEST_BPS else None

    probe = reading.probe
    sample = LinkSample(
        rtt_s=lasted(reading.rtt_s) or lasted(probe.rtt_s),
        loss=probe.loss,
        uplink_bps=rate_bps(reading.bytes_up, reading.upload_s, probe.uplink_bps),
        downlink_bps=rate_bps(reading.bytes_down, reading.download_s, probe.downlink_bps),
    )
    answered(fleet, row)
    fleet.observe(row, sample, round=round)
    samples, compute_s = reading.samples or 0.0, lasted(reading.compute_s)
    if samples >= 1 and compute_s and compute_s / samples < LARGEST_SAMPLE_S:
        fleet.sample_s[row] = compute_s / samples
    if reading.download_s is None:  # the wall clock; a virtual one accounts for every second
        link = fleet.links[row]
        transfer_s = lasted(reading.upload_s) or 8 * reading.bytes_up / link.uplink.bps
        transfer_s += 8 * reading.bytes_down / link.downlink.bps
        rest_s = max(0.0, reading.elapsed_s - transfer_s - (compute_s or 0.0) - ROUND_TRIPS * link.rtt_s)
        gain = RISING_GAIN if rest_s > fleet.overhead_s[row] else FALLING_GAIN
        fleet.overhead_s[row] += gain * (rest_s - fleet.overhead_s[row])
    if reading.loss is not None:
        fleet.loss[row] = reading.loss
    if reading.squared_loss is not None and reading.squared_loss >= 0:
        fleet.rms_loss[row] = math.sqrt(reading.squared_loss)
