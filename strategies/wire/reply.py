"""A node's answer to an order."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from flwr.app import Message

from strategies.errors import Reason, Refused
from strategies.fleet.link import LinkSample
from strategies.wire.blob import BLOB, row_of_bytes
from strategies.wire.claim import Claim
from strategies.wire.domains import Domain, check_domains, malformed, numbers
from strategies.wire.link import link_sample
from strategies.wire.timing import COMPUTE_S, Timing

UPDATE: Final = "update"  # ArrayRecord: BLOB
METRICS: Final = "metrics"  # MetricRecord: what follows, and timing.COMPUTE_S

EXAMPLES: Final = "num-examples"  # size of the node's data set
SAMPLES: Final = "samples"  # samples processed in this round
STEPS: Final = "steps"
LOSS: Final = "loss"  # mean training loss over the steps
SQUARED_LOSS: Final = "squared-loss"  # mean squared sample loss (Oort's statistical utility)
COUNT: Final = "count"  # processed in this round, in the task's own unit
TASK_METRIC: Final = "metric."  # prefix of the names that the task gives its own metrics

DOMAINS: Final[Mapping[str, Domain]] = {
    EXAMPLES: Domain(0, 2**40, "examples", whole=True),
    SAMPLES: Domain(0, 2**40, "samples", whole=True),
    STEPS: Domain(0, 2**31, "steps", whole=True),
    COUNT: Domain(0, 2**53, "units"),
    COMPUTE_S: Domain(0, 1e6, "seconds"),
    # A loss outside means that training has diverged; the refusal tells an honest node what to do about it.
    LOSS: Domain(-1e9, 1e9, "loss", reason=Reason.NON_FINITE),
    SQUARED_LOSS: Domain(0, 1e18, "squared loss", reason=Reason.NON_FINITE),
}

HEADROOM_BYTES: Final = 65_536  # of a blob beyond the model's own size: header, buffers, and the container's header
MOST_METRICS: Final = 32  # of the task's own metrics are kept of a reply
_METRIC: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_./ -]{0,63}")


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
        Who the node says it is.
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
            ``largest_bytes`` and some headroom, or a number outside its domain.
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
        metrics = numbers(content, METRICS)
        check_domains(metrics, DOMAINS)
        return cls(
            blob=blob,
            digest=hashlib.sha256(blob).digest(),
            metrics=metrics,
            link=link_sample(content),
            claim=Claim.read(content),
            timing=Timing.read(content),
        )


def custom_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """The task's own metrics in a reply, by name; at most ``MOST_METRICS``, without odd names."""
    named = {key.removeprefix(TASK_METRIC): value for key, value in metrics.items() if key.startswith(TASK_METRIC)}
    names = sorted(name for name in named if _METRIC.fullmatch(name))
    return {name: named[name] for name in names[:MOST_METRICS]}
