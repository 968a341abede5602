"""Every record that server and client share, each written and read by one type.

A message to a node carries ``ArrayRecord[MODEL]`` with one uint8 array ``BLOB`` (a codec blob of the model, or
of its change since the version the node holds) and an ``Order``. A reply carries
``ArrayRecord[UPDATE]`` with one ``BLOB``, ``MetricRecord[METRICS]``, ``MetricRecord[LINK]`` (what the node
measured) and ``ConfigRecord[CONTRIBUTION]`` (its signed ``Claim``): a ``Reply``. ``strategies.arrivals`` adds a
``Timing`` to each reply it hands over: what the server measured. A node cannot set it, since the server overwrites it.
A query is an ``invitation``, and a node's answer to it a ``Hello``.
"""

from strategies.wire.blob import BLOB, row_of_bytes
from strategies.wire.claim import ADDRESS, CONTRIBUTION, SIGNATURE, Claim
from strategies.wire.domains import malformed, numbers
from strategies.wire.error_reply import LEAVING, failure_reason
from strategies.wire.hello import (
    CAUSE,
    DEVICE,
    ENROLMENT,
    HELLO,
    IDENTITY,
    LONGEST_EXCUSE,
    PARTITION,
    REMEDY,
    UNFIT,
    Hello,
    invitation,
    invited_to,
    name_of,
)
from strategies.wire.link import DOWNLINK_BPS, JITTER_S, LINK, LOSS_RATE, RTT_S, UPLINK_BPS
from strategies.wire.order import ACK, CODEC, MODEL, ORDER, ROUND, Order
from strategies.wire.reply import (
    COUNT,
    EXAMPLES,
    LOSS,
    METRICS,
    MOST_METRICS,
    SAMPLES,
    SQUARED_LOSS,
    STEPS,
    TASK_METRIC,
    UPDATE,
    Reply,
    custom_metrics,
)
from strategies.wire.timing import ARRIVED_S, BYTES_UP, COMPUTE_S, SENT_S, TIMING, UPLOAD_S, Timing

__all__ = [
    "ACK",
    "ADDRESS",
    "ARRIVED_S",
    "BLOB",
    "BYTES_UP",
    "CAUSE",
    "CODEC",
    "COMPUTE_S",
    "CONTRIBUTION",
    "COUNT",
    "Claim",
    "DEVICE",
    "DOWNLINK_BPS",
    "ENROLMENT",
    "EXAMPLES",
    "HELLO",
    "Hello",
    "IDENTITY",
    "JITTER_S",
    "LEAVING",
    "LINK",
    "LONGEST_EXCUSE",
    "LOSS",
    "LOSS_RATE",
    "METRICS",
    "MODEL",
    "MOST_METRICS",
    "Order",
    "PARTITION",
    "ORDER",
    "REMEDY",
    "ROUND",
    "RTT_S",
    "Reply",
    "SAMPLES",
    "SENT_S",
    "SIGNATURE",
    "SQUARED_LOSS",
    "STEPS",
    "TASK_METRIC",
    "TIMING",
    "Timing",
    "UNFIT",
    "UPDATE",
    "UPLINK_BPS",
    "UPLOAD_S",
    "custom_metrics",
    "failure_reason",
    "invitation",
    "invited_to",
    "malformed",
    "name_of",
    "numbers",
    "row_of_bytes",
]
