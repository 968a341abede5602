"""What the server measured of a round trip, beside what the node said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from flwr.app import MetricRecord, RecordDict

from strategies.wire.domains import numbers
from strategies.wire.link import RTT_S

TIMING: Final = "timing"  # MetricRecord: what follows

SENT_S: Final = "sent-s"
ARRIVED_S: Final = "arrived-s"
DOWNLOAD_S: Final = "download-s"
COMPUTE_S: Final = "compute-s"  # in METRICS by the node's own monotonic clock, here by the server's
UPLOAD_S: Final = "upload-s"
BYTES_DOWN: Final = "bytes-down"
BYTES_UP: Final = "bytes-up"


@dataclass(frozen=True, slots=True)
class Timing:
    """What the server measured of a round trip; a part is None where it is not known."""

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
