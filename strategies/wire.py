"""Every record name and key that server and client share.

A message to a node carries ``ArrayRecord[MODEL]`` with one uint8 array ``BLOB`` (a codec blob of the model, or
of its change since the version the node holds) and ``ConfigRecord[PLAN]``. A reply carries
``ArrayRecord[UPDATE]`` with one ``BLOB``, ``MetricRecord[METRICS]``, ``MetricRecord[LINK]`` (what the node
measured) and ``ConfigRecord[CONTRIBUTION]`` (its signed claim). ``strategies.arrivals`` adds
``MetricRecord[TIMING]`` to each reply it hands over: what the server measured. A node cannot set TIMING, since
the server overwrites it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Final

from flwr.app import Array, RecordDict

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
BASE: Final = "base"  # version of the global model the blob brings the node to
VIEW: Final = "view"  # version the blob is a change against; -1: the blob is a whole model
LOCAL_STEPS: Final = "local-steps"
BATCH_SIZE: Final = "batch-size"
CODEC: Final = "codec"
DEADLINE_S: Final = "deadline-s"
SEED: Final = "seed"
SESSION: Final = "session"  # 32 bytes: what contributions are signed for
BASE_MODEL: Final = "base-model"  # 32 bytes: hash of the global model of version BASE
ACK: Final = "ack"  # round whose update of this node was used; -1: none since the last message
RECEIPT: Final = "receipt"  # JSON receipt of an earlier, settled contribution

# METRICS (node -> server)
EXAMPLES: Final = "num-examples"  # size of the node's data set
SAMPLES: Final = "samples"  # samples processed in this round
STEPS: Final = "steps"
LOSS: Final = "loss"  # mean training loss over the steps
SQUARED_LOSS: Final = "squared-loss"  # mean squared sample loss (Oort's statistical utility)
COUNT: Final = "count"  # processed in this round, in the task's own unit
COMPUTE_S: Final = "compute-s"  # node's own monotonic clock
BYTES_DOWN: Final = "bytes-down"
BYTES_UP: Final = "bytes-up"
TASK_METRIC: Final = "metric."  # prefix of the names that the task gives its own metrics

MOST_METRICS: Final = 32  # of the task's that are kept of a reply
_METRIC: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_./ -]{0,63}")

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

# CONTRIBUTION (node -> server)
ADDRESS: Final = "address"
SIGNATURE: Final = "signature"

# HELLO (node -> server, answer to a query)
PARTITION: Final = "partition-id"
DEVICE: Final = "device"  # ConfigRecord: device name, memory, driver, address

# UNFIT (node -> server, answer to a query)
CAUSE: Final = "cause"
REMEDY: Final = "remedy"


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
