"""What a node answers, signed: who it is, and its update with what it says of its work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flwr.app import ConfigRecord, MetricRecord, RecordDict

from hypergpu_fl.codec import blob_record
from hypergpu_fl.ledger.contribution import Contribution, enrolment_digest, hash_blob, hash_metrics
from hypergpu_fl.ledger.identity import NodeKey, sign_contribution
from hypergpu_fl.task.metric_names import named_metrics
from strategies import wire

if TYPE_CHECKING:
    from hypergpu_fl.task import TrainResult


def hello_of(
    partition: int,
    examples: int,
    *,
    identity: Mapping[str, str],
    device: Mapping[str, str | int | float],
    link: Mapping[str, MetricRecord],
    key: NodeKey,
    session: bytes,
    node_id: int,
) -> RecordDict:
    """Who Flower's node ``node_id`` is; signed if it was invited to a ``session``."""
    content = RecordDict(
        {
            wire.HELLO: MetricRecord({wire.PARTITION: partition, wire.EXAMPLES: examples}),
            wire.IDENTITY: ConfigRecord(dict(identity)),
            wire.DEVICE: ConfigRecord({wire.ADDRESS: key.address, **device}),
            **link,
        }
    )
    if session:
        content[wire.ENROLMENT] = enrolment(partition, key=key, session=session, node_id=node_id)
    return content


def enrolment(partition: int, *, key: NodeKey, session: bytes, node_id: int) -> ConfigRecord:
    """The claim to a share of the data, signed with the node's key."""
    return ConfigRecord({wire.SIGNATURE: key.sign(enrolment_digest(session, node_id, partition))})


def reply_of(
    order: wire.Order,
    result: TrainResult,
    blob: bytes,
    *,
    examples: int,
    compute_s: float | None,
    link: Mapping[str, MetricRecord],
    key: NodeKey,
) -> RecordDict:
    """The signed reply to an order. ``compute_s`` is None, and ``link`` empty, where the server measures them."""
    metrics: dict[str, Any] = {
        **named_metrics(result.metrics),
        wire.EXAMPLES: examples,
        wire.SAMPLES: result.steps * min(order.batch_size, examples),
        wire.COUNT: result.count,
        wire.STEPS: result.steps,
        wire.LOSS: result.loss,
        wire.SQUARED_LOSS: result.squared_loss,
    }
    if compute_s is not None:
        metrics[wire.COMPUTE_S] = compute_s
    content = RecordDict({wire.UPDATE: blob_record(blob), wire.METRICS: MetricRecord(metrics), **link})
    content[wire.CONTRIBUTION] = signed(order, blob, wire.numbers(content, wire.METRICS), key)
    return content


def signed(order: wire.Order, blob: bytes, metrics: Mapping[str, float], key: NodeKey) -> ConfigRecord:
    """The claim to an update, signed with the node's key."""
    contribution = Contribution(
        session=order.session,
        round=order.round,
        base_model=order.base_model,
        update_hash=hash_blob(blob),
        examples=int(metrics[wire.EXAMPLES]),
        metrics_hash=hash_metrics(metrics),
    )
    return wire.Claim(key.address, sign_contribution(key, contribution)).record()
