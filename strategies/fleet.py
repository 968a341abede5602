"""What the server knows of every node: one numpy column a quantity, so that 100,000 nodes cost milliseconds.

Names used here: N = known nodes. A node's row is its index in every column and never changes during a run.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from strategies.link import LinkEstimate, LinkSample, miss, observe

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass
class Fleet:
    """Columns of all known nodes, in the order of enrolment.

    ``sample_s``: seconds a node computes on one sample. ``rms_loss``: root of the mean squared sample loss it last
    reported, NaN when it never did. ``last_round``: round it was last sent work, -1 for never. ``online``: it is
    connected. ``at_work``: it has been sent work and has not answered.
    """

    names: list[str] = field(default_factory=list)
    links: list[LinkEstimate] = field(default_factory=list)
    examples: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    sample_s: Floats = field(default_factory=lambda: np.zeros(0))
    rtt_s: Floats = field(default_factory=lambda: np.zeros(0))
    uplink_bps: Floats = field(default_factory=lambda: np.zeros(0))
    downlink_bps: Floats = field(default_factory=lambda: np.zeros(0))
    delivery: Floats = field(default_factory=lambda: np.zeros(0))
    quality: Floats = field(default_factory=lambda: np.zeros(0))
    rms_loss: Floats = field(default_factory=lambda: np.zeros(0))
    last_round: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    selections: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    online: Bools = field(default_factory=lambda: np.zeros(0, np.bool_))
    at_work: Bools = field(default_factory=lambda: np.zeros(0, np.bool_))

    def __len__(self) -> int:
        return len(self.names)

    def enrol(self, name: str, *, examples: int, sample_s: float, link: LinkEstimate | None = None) -> int:
        """Add a node and return its row."""
        row = len(self)
        self.names.append(name)
        self.links.append(link or LinkEstimate())
        for column, value in {
            "examples": examples,
            "sample_s": sample_s,
            "rtt_s": 0.0,
            "uplink_bps": 0.0,
            "downlink_bps": 0.0,
            "delivery": 0.0,
            "quality": 0.0,
            "rms_loss": np.nan,
            "last_round": -1,
            "selections": 0,
            "online": True,
            "at_work": False,
        }.items():
            setattr(self, column, np.append(getattr(self, column), value).astype(getattr(self, column).dtype))
        self._reflect(row)
        return row

    def observe(self, row: int, sample: LinkSample) -> None:
        """Fold a delivered round trip of node ``row`` into its link."""
        self.links[row] = observe(self.links[row], sample)
        self._reflect(row)

    def miss(self, row: int) -> None:
        """Record that node ``row`` did not answer."""
        self.links[row] = miss(self.links[row])
        self._reflect(row)

    def available(self) -> Ints:
        """Rows that may be given work now."""
        return np.flatnonzero(self.online & ~self.at_work)

    def _reflect(self, row: int) -> None:
        link = self.links[row]
        self.rtt_s[row] = link.pessimistic_rtt_s
        self.uplink_bps[row] = link.uplink_bps
        self.downlink_bps[row] = link.downlink_bps
        self.delivery[row] = link.delivery
        self.quality[row] = link.quality
