"""A node's report of its link in a reply: when to probe, in which direction, and the record on the wire.

Uplinks matter most and take two probes in three. After a large reply, the server has timed that transfer itself, so a
bulk probe would be wasted and only round trips are measured.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final

from flwr.app import MetricRecord, RecordDict

from hypergpu_fl.errors import NetworkError
from hypergpu_fl.network.probe import Direction, LinkFindings, ProbeTarget, probe
from strategies import wire

log = logging.getLogger(__name__)

MEMORY: Final = "link-probe"  # kept in Flower's context, which outlives the message's process
PASSIVE_BYTES: Final = 1_000_000
DIRECTIONS: Final[tuple[Direction, ...]] = ("up", "down", "up")
WIRE_KEYS: Final = {
    "rtt_s": wire.RTT_S,
    "jitter_s": wire.JITTER_S,
    "loss_rate": wire.LOSS_RATE,
    "uplink_bps": wire.UPLINK_BPS,
    "downlink_bps": wire.DOWNLINK_BPS,
}


def direction_of(number: int, *, last_reply_bytes: int) -> Direction:
    """Direction of a node's probe ``number`` (0, 1, ...), after a reply of ``last_reply_bytes``."""
    return "none" if last_reply_bytes >= PASSIVE_BYTES else DIRECTIONS[number % len(DIRECTIONS)]


def target_of(node_config: Mapping[str, Any]) -> ProbeTarget | None:
    """The SuperLink as ``--node-config`` names it (``superlink``, ``root-certificates``); None if it does not.

    Raises
    ------
    NetworkError
        If it is named, but cannot be read.
    """
    address = str(node_config.get("superlink", ""))
    if not address:
        return None
    insecure = str(node_config.get("insecure", "false")).lower() == "true"
    return ProbeTarget.parse(address, str(node_config.get("root-certificates", "")), insecure=insecure)


def report_link(node_config: Mapping[str, Any], state: RecordDict, *, reply_bytes: int = 0) -> MetricRecord | None:
    """Probe if the SuperLink's address is known, and return the LINK record for a reply of ``reply_bytes``.

    If the probe fails, the reply only lacks this record; training does not depend on it.
    """
    memory = wire.numbers(state, MEMORY)
    number, last_bytes = (int(memory.get(key, 0)) for key in ("number", "reply-bytes"))
    state[MEMORY] = MetricRecord({"number": number + 1, "reply-bytes": reply_bytes})
    try:
        if (target := target_of(node_config)) is None:
            return None
        return record_of(probe(target, direction=direction_of(number, last_reply_bytes=last_bytes)))
    except NetworkError as error:
        log.warning("%s; %s", error.cause, error.remedy)
        return None


def record_of(findings: LinkFindings) -> MetricRecord:
    """Findings as the LINK record; what was not found is left out."""
    values = {WIRE_KEYS[f.name]: getattr(findings, f.name) for f in fields(findings)}
    return MetricRecord({key: value for key, value in values.items() if value is not None})
