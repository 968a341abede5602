"""Every record that server and client share, each written and read by one type.

A message to a node carries ``ArrayRecord[MODEL]`` with one uint8 array ``BLOB`` (a codec blob of the model, or
of its change since the version the node holds) and an ``Order``. A reply carries
``ArrayRecord[UPDATE]`` with one ``BLOB``, ``MetricRecord[METRICS]``, ``MetricRecord[LINK]`` (what the node
measured) and ``ConfigRecord[CONTRIBUTION]`` (its signed claim): a ``Reply``. ``strategies.arrivals`` adds a ``Timing``
to each reply it hands over: what the server measured. A node cannot set it, since the server overwrites it.
A node's answer to a query is a ``Hello``.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict

from strategies.errors import Reason, Refused
from strategies.failure import told
from strategies.link import LinkSample

# records
MODEL: Final = "model"
PLAN: Final = "plan"
UPDATE: Final = "update"
METRICS: Final = "metrics"
LINK: Final = "link"
CONTRIBUTION: Final = "contribution"
TIMING: Final = "timing"
HELLO: Final = "hello"  # MetricRecord: PARTITION, EXAMPLES; ConfigRecord DEVICE: what it runs on
IDENTITY: Final = "identity"  # ConfigRecord: what must be the same at server and node, text by name
UNFIT: Final = "unfit"  # ConfigRecord instead of HELLO: PARTITION, CAUSE, REMEDY of a node that cannot take part

# the one array of MODEL and UPDATE
BLOB: Final = "blob"

# Code of the error reply by which a node hands its work back because it goes; Flower's own end far below
LEAVING: Final = 1005

# PLAN (server -> node)
ROUND: Final = "round"
BASE: Final = "base"
LOCAL_STEPS: Final = "local-steps"
BATCH_SIZE: Final = "batch-size"
CODEC: Final = "codec"
SEED: Final = "seed"
SESSION: Final = "session"
BASE_MODEL: Final = "base-model"
ACK: Final = "ack"
RECEIPT: Final = "receipt"

# METRICS (node -> server)
EXAMPLES: Final = "num-examples"  # size of the node's data set
SAMPLES: Final = "samples"  # samples processed in this round
STEPS: Final = "steps"
LOSS: Final = "loss"  # mean training loss over the steps
SQUARED_LOSS: Final = "squared-loss"  # mean squared sample loss (Oort's statistical utility)
COUNT: Final = "count"  # processed in this round, in the task's own unit
COMPUTE_S: Final = "compute-s"  # node's own monotonic clock
TASK_METRIC: Final = "metric."  # prefix of the names that the task gives its own metrics

# LINK (node -> server, optional: a probe's findings) and TIMING (server's own measurement)
RTT_S: Final = "rtt-s"
JITTER_S: Final = "jitter-s"
LOSS_RATE: Final = "loss-rate"
UPLINK_BPS: Final = "uplink-bps"
DOWNLINK_BPS: Final = "downlink-bps"
SENT_S: Final = "sent-s"
ARRIVED_S: Final = "arrived-s"
DOWNLOAD_S: Final = "download-s"
UPLOAD_S: Final = "upload-s"
BYTES_DOWN: Final = "bytes-down"
BYTES_UP: Final = "bytes-up"

MOST_METRICS: Final = 32  # of the task's that are kept of a reply
_METRIC: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_./ -]{0,63}")

# CONTRIBUTION (node -> server)
ADDRESS: Final = "address"
SIGNATURE: Final = "signature"

# HELLO (node -> server, answer to a query)
PARTITION: Final = "partition-id"
DEVICE: Final = "device"  # ConfigRecord: device name, memory, driver, address

# UNFIT (node -> server, answer to a query)
CAUSE: Final = "cause"
REMEDY: Final = "remedy"

HEADROOM_BYTES: Final = 65_536  # of a blob over the model's own size: header, buffers, and the container's
LARGEST_RTT_S: Final = 60.0
LARGEST_BPS: Final = 1e12
LARGEST_REASON: Final = 500  # characters of what a node says of its failure
LONGEST_EXCUSE: Final = 1000  # and of why it cannot take part


@dataclass(frozen=True, slots=True)
class Order:
    """What a node is asked to do.

    Attributes
    ----------
    round, base : int
        The round, and the version of the global model that the blob brings the node to.
    base_model : bytes
        32 bytes: hash of the global model of version ``base``.
    local_steps, batch_size, codec, seed
        The work, and the level that its update is compressed at.
    session : bytes
        32 bytes: what contributions are signed for.
    ack : int
        Round whose update of this node was used last; -1: none yet.
    receipt : str
        JSON receipts of earlier, settled contributions; empty: none.
    """

    round: int
    base: int
    base_model: bytes
    local_steps: int
    batch_size: int
    codec: str
    seed: int
    session: bytes
    ack: int
    receipt: str = ""

    def message(self, node_id: int, blob: bytes, *, number: int, ttl_s: float) -> Message:
        """The message to ``node_id`` with the model in ``blob``; ``number`` is what the server knows the order by."""
        plan: dict[str, Any] = {
            ROUND: self.round,
            BASE: self.base,
            LOCAL_STEPS: self.local_steps,
            BATCH_SIZE: self.batch_size,
            CODEC: self.codec,
            SEED: self.seed,
            SESSION: self.session,
            BASE_MODEL: self.base_model,
            ACK: self.ack,
        }
        if self.receipt:
            plan[RECEIPT] = self.receipt
        model = ArrayRecord({BLOB: Array(np.frombuffer(blob, dtype=np.uint8))})
        return Message(
            RecordDict({MODEL: model, PLAN: ConfigRecord(plan)}),
            dst_node_id=node_id,
            message_type=MessageType.TRAIN,
            ttl=ttl_s,
            group_id=str(number),
        )

    @classmethod
    def read(cls, content: RecordDict) -> Order:
        """The order in a message. Raises ``KeyError``, ``TypeError`` or ``ValueError`` for one that is not whole."""
        plan = content.config_records[PLAN]
        return cls(
            round=_whole(plan[ROUND]),
            base=_whole(plan[BASE]),
            base_model=_bytes(plan[BASE_MODEL]),
            local_steps=_whole(plan[LOCAL_STEPS]),
            batch_size=_whole(plan[BATCH_SIZE]),
            codec=str(plan[CODEC]),
            seed=_whole(plan[SEED]),
            session=_bytes(plan[SESSION]),
            ack=_whole(plan[ACK]),
            receipt=str(plan.get(RECEIPT, "")),
        )


@dataclass(frozen=True, slots=True)
class Timing:
    """What the server measured of a round trip; its parts only where they are known."""

    sent_s: float
    arrived_s: float
    bytes_down: float
    bytes_up: float
    download_s: float | None = None
    compute_s: float | None = None
    upload_s: float | None = None
    rtt_s: float | None = None

    def record(self) -> MetricRecord:
        """As it is added to a reply."""
        parts = {
            DOWNLOAD_S: self.download_s,
            COMPUTE_S: self.compute_s,
            UPLOAD_S: self.upload_s,
            RTT_S: self.rtt_s,
        }
        return MetricRecord(
            {
                SENT_S: self.sent_s,
                ARRIVED_S: self.arrived_s,
                BYTES_DOWN: self.bytes_down,
                BYTES_UP: self.bytes_up,
                **{key: value for key, value in parts.items() if value is not None},
            }
        )

    @classmethod
    def read(cls, content: RecordDict) -> Timing:
        """What ``strategies.arrivals`` added to a reply."""
        found = numbers(content, TIMING)
        return cls(
            found[SENT_S],
            found[ARRIVED_S],
            found[BYTES_DOWN],
            found[BYTES_UP],
            *(found.get(key) for key in (DOWNLOAD_S, COMPUTE_S, UPLOAD_S, RTT_S)),
        )


@dataclass(frozen=True, slots=True)
class Claim:
    """Who says that the update is its own: an address, and a signature over what was sent."""

    address: str
    signature: bytes

    @classmethod
    def read(cls, content: RecordDict) -> Claim | None:
        """The claim in a reply; None if there is none, or none that is one."""
        found = content.config_records.get(CONTRIBUTION)
        address, signature = (found.get(key) for key in (ADDRESS, SIGNATURE)) if found is not None else (None, None)
        return cls(address, signature) if isinstance(address, str) and isinstance(signature, bytes) else None

    def record(self) -> ConfigRecord:
        """As it goes into a reply."""
        return ConfigRecord({ADDRESS: self.address, SIGNATURE: self.signature})


@dataclass(frozen=True, slots=True)
class Reply:
    """A node's answer to an order, read once.

    Attributes
    ----------
    blob, digest : bytes, bytes
        The update, and its SHA-256.
    metrics : mapping of str to float
        All finite numbers that the node gave, which its signature covers.
    link : LinkSample
        What it found out about its link.
    claim : Claim, optional
        Who it says it is.
    timing : Timing
        What the server measured.
    """

    blob: bytes
    digest: bytes
    metrics: Mapping[str, float]
    link: LinkSample
    claim: Claim | None
    timing: Timing

    @classmethod
    def read(cls, reply: Message, *, largest_bytes: int) -> Reply:
        """Take a reply apart, copying nothing that is too large.

        Raises
        ------
        Refused
            For records that are missing or of the wrong kind, a blob that is not one row of bytes, or one larger than
            ``largest_bytes`` and some headroom.
        """
        content = reply.content
        record = content.array_records.get(UPDATE)
        array = record.get(BLOB) if record is not None else None
        if array is None or record is None:
            raise Refused(Reason.MALFORMED, f"no array {BLOB!r} in record {UPDATE!r}")
        if len(record) > 1:
            raise Refused(Reason.MALFORMED, f"{len(record)} arrays in record {UPDATE!r}, expected {BLOB!r} alone")
        if len(array.data) > largest_bytes + HEADROOM_BYTES:
            raise Refused(
                Reason.TOO_LARGE, f"{len(array.data)} bytes, at most {largest_bytes + HEADROOM_BYTES} are read"
            )
        try:
            blob = bytes(row_of_bytes(array))
        except Exception as error:  # whatever hostile bytes make numpy's format raise
            raise malformed(f"array {BLOB!r}", error) from error
        return cls(
            blob=blob,
            digest=hashlib.sha256(blob).digest(),
            metrics=numbers(content, METRICS),
            link=link_sample(content),
            claim=Claim.read(content),
            timing=Timing.read(content),
        )


@dataclass(frozen=True, slots=True)
class Hello:
    """Who a node says it is: its share of the data, what it runs on, its link, and what its task is by."""

    partition: int
    examples: int
    device: Mapping[str, Any] = field(default_factory=dict)
    link: LinkSample = LinkSample()
    identity: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What the node is known by: its share of the data outlives Flower's ids."""
        return f"node-{self.partition}"

    @classmethod
    def read(cls, answer: Message) -> Hello:
        """The hello in an answer.

        Raises
        ------
        Refused
            If it does not say what it must, with the node's own reason if it gives one.
        """
        if not answer.has_content():
            raise Refused(Reason.ERROR_REPLY, (answer.error.reason or "it failed")[:LONGEST_EXCUSE])
        content = answer.content
        said = numbers(content, HELLO)
        if not said.keys() >= {PARTITION, EXAMPLES}:
            unfit = content.config_records.get(UNFIT)
            texts = [unfit.get(key) for key in (CAUSE, REMEDY)] if unfit else []
            excuse = "; ".join(text for text in texts if isinstance(text, str) and text)[:LONGEST_EXCUSE]
            raise Refused(Reason.MALFORMED, excuse or "it does not say which share is its own")
        device, identity = (content.config_records.get(name) for name in (DEVICE, IDENTITY))
        return cls(
            partition=int(said[PARTITION]),
            examples=max(0, int(said[EXAMPLES])),
            device=dict(device) if device is not None else {},
            link=link_sample(content),
            identity={name: value for name, value in identity.items() if isinstance(value, str)} if identity else {},
        )


def name_of(answer: Message, node_id: int) -> str:
    """What a node that cannot take part is called, where it says which share is its own."""
    if answer.has_content():
        content = answer.content
        for record in (content.config_records.get(UNFIT), content.metric_records.get(HELLO)):
            if record is not None and isinstance(partition := record.get(PARTITION), int):
                return f"node-{partition}"
    return f"node {node_id}"


def failure_reason(reply: Message) -> str:
    """What an error reply says, short."""
    return told(reply.error.reason or f"code {reply.error.code}", LARGEST_REASON)


def malformed(what: str, error: Exception) -> Refused:
    """The refusal that stands for whatever hostile bytes made a reader raise."""
    return Refused(Reason.MALFORMED, f"{what}: {type(error).__name__}: {error}"[:LARGEST_REASON])


def link_sample(content: RecordDict) -> LinkSample:
    """What a node found out about its link, where that is possible at all."""
    found = numbers(content, LINK)

    def within(key: str, largest: float) -> float | None:
        value = found.get(key)
        return value if value is not None and 0 < value < largest else None

    loss = found.get(LOSS_RATE)
    return LinkSample(
        rtt_s=within(RTT_S, LARGEST_RTT_S),
        jitter_s=within(JITTER_S, LARGEST_RTT_S),
        loss=min(1.0, max(0.0, loss)) if loss is not None else None,
        uplink_bps=within(UPLINK_BPS, LARGEST_BPS),
        downlink_bps=within(DOWNLINK_BPS, LARGEST_BPS),
    )


# The one header that a row of bytes has, as numpy writes it. Numpy's own reader takes the text there for Python's
# source and fails with whatever its tokenizer raises.
_NPY: Final = re.compile(
    rb"\x93NUMPY\x01\x00(?s:..)\{'descr': '\|u1', 'fortran_order': False, 'shape': \((?P<size>\d{1,18}),\), \} *\n"
)


def row_of_bytes(array: Array) -> memoryview:
    """The values of a one-dimensional uint8 array where they lie: ``Array.numpy`` would copy them twice.

    Raises ``ValueError`` for anything else.
    """
    header = _NPY.match(array.data) if array.stype == "numpy.ndarray" else None
    if header is None or int(header["size"]) != len(array.data) - header.end():
        raise ValueError("not one row of bytes in npy format 1.0")
    return memoryview(array.data)[header.end() :]


def custom_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """The task's own metrics among those of a reply, by name; no more than ``MOST_METRICS``, and no odd names."""
    named = {key.removeprefix(TASK_METRIC): value for key, value in metrics.items() if key.startswith(TASK_METRIC)}
    names = sorted(name for name in named if _METRIC.fullmatch(name))
    return {name: named[name] for name in names[:MOST_METRICS]}


def numbers(content: RecordDict, record: str) -> dict[str, float]:
    """The finite scalars of a MetricRecord; empty when the record is missing. Lists are left out."""
    found = content.metric_records.get(record)
    scalars = {key: float(value) for key, value in found.items() if not isinstance(value, list)} if found else {}
    return {key: value for key, value in scalars.items() if math.isfinite(value)}


def _whole(value: Any) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{value!r} is not a whole number")
    return value


def _bytes(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError(f"{value!r} is not bytes")
    return value
