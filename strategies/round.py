"""What a round leaves behind, and who may watch it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from flwr.app import Message, RecordDict

from strategies import wire
from strategies.aggregation import Update
from strategies.errors import Reason
from strategies.flight import Flight, payload_bytes
from strategies.layout import Arrays, Vector
from strategies.planning import FleetPlan


@dataclass(frozen=True, slots=True)
class Ordered:
    """Work that a node was given, and what the message with the model came to."""

    row: int
    node: str
    steps: int
    codec: str
    bytes_down: int


@dataclass(frozen=True, slots=True)
class Journey:
    """What came of an order that was answered: ``round`` it was given in, its work, and its way there and back.

    Seconds are on the arrivals' clock; a part is None where nobody measured it.
    """

    round: int = 0
    steps: int = 0
    codec: str = ""
    bytes_up: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    download_s: float | None = None
    compute_s: float | None = None
    upload_s: float | None = None
    total_s: float | None = None

    @classmethod
    def of(cls, flight: Flight, reply: Message, now_s: float) -> Journey:
        """The journey that ended with ``reply``, at the latest now. The server's own timing goes over the node's."""
        content = reply.content if reply.has_content() else RecordDict()
        metrics, measured = wire.numbers(content, wire.METRICS), wire.numbers(content, wire.TIMING)
        total_s = measured.get(wire.ARRIVED_S, now_s) - flight.sent_s
        claimed_s = metrics.get(wire.COMPUTE_S, -1.0)
        return cls(
            round=int(flight.plan.get(wire.ROUND, 0)),
            steps=int(flight.plan.get(wire.LOCAL_STEPS, 0)),
            codec=str(flight.plan.get(wire.CODEC, "")),
            bytes_up=payload_bytes(content),
            metrics=metrics,
            download_s=measured.get(wire.DOWNLOAD_S),
            compute_s=measured.get(wire.COMPUTE_S, claimed_s if 0 <= claimed_s <= total_s else None),
            upload_s=measured.get(wire.UPLOAD_S),
            total_s=total_s,
        )


@dataclass(frozen=True, slots=True)
class Accepted:
    """An update that counted, with its weight in the round's mean."""

    row: int
    node: str
    node_id: int
    round: int
    base: int
    staleness: int
    steps: int
    examples: int
    bytes_up: int
    weight: float
    contribution: Mapping[str, Any]
    metrics: Mapping[str, float]
    journey: Journey = Journey()


@dataclass(frozen=True, slots=True)
class RefusedReply:
    """A reply that did not count, and why; ``round`` is the one that refused it."""

    row: int
    node: str
    round: int
    reason: Reason
    detail: str
    journey: Journey = Journey()


@dataclass(frozen=True)
class RoundOutcome:
    """Everything a closed round leaves behind. Seconds are on the arrivals' clock.

    ``model_hash`` is of the version that nodes train from next, ``average_P`` what is evaluated and kept: the average
    of the versions, or the latest where they are not averaged. ``rolled_back`` is the version whose model was restored
    because the loss had exploded, else None. ``ordered`` is the work given in this round, ``dropped`` the rows whose
    work was given up at its end.
    """

    round: int
    started_s: float
    ended_s: float
    selected: Sequence[int]
    accepted: Sequence[Accepted]
    refused: Sequence[RefusedReply]
    late: int
    bytes_down: int
    bytes_up: int
    base_hash: bytes
    model_hash: bytes
    average_P: Vector
    buffers: Arrays
    rolled_back: int | None = None
    ordered: Sequence[Ordered] = ()
    dropped: Sequence[int] = ()


class RoundHook:
    """What may watch a round: the ledger, the registry, the report. Does nothing, so a hook says what it does."""

    def vet(self, answer: RecordDict) -> None:
        """Raise ``Refused`` to keep a node that answered so from taking part."""

    def enrolled(self, row: int, node_id: int, answer: RecordDict) -> None:
        """See what a node answered when it was asked who it is: new, back, or let out on probation."""

    def admit(self, flight: Flight, reply: Message, blob: bytes) -> None:
        """Raise ``Refused`` to keep a reply from counting."""

    def accepted(self, flight: Flight, reply: Message, update: Update, model_P: Vector) -> None:
        """See an update that will count, and the model it is added to."""

    def closed(self, outcome: RoundOutcome) -> None:
        """See the round after the model's step."""

    def enclose(self, node_id: int) -> Mapping[str, str]:
        """What the next order to a node shall carry besides its plan."""
        return {}


@dataclass
class OpenRound:
    """The open round's tally.

    ``weights`` belong to ``accepted`` and are not normalised yet. ``bytes_common`` are what downloads carried beyond
    what their levels come to.
    """

    number: int
    started_s: float
    plan: FleetPlan
    base_hash: bytes
    ordered: list[Ordered] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    accepted: list[Accepted] = field(default_factory=list)
    refused: list[RefusedReply] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    late: int = 0
    bytes_down: int = 0
    bytes_common: float = 0.0
    bytes_up: int = 0
    refills: int = 0
    rolled_back: int | None = None

    @property
    def selected(self) -> list[int]:
        """Rows that were given work, in that order."""
        return [ordered.row for ordered in self.ordered]

    def loss(self) -> float | None:
        """Mean of the training losses reported with accepted updates, by examples; None when none was."""
        reported = [(a.metrics[wire.LOSS], max(1, a.examples)) for a in self.accepted if wire.LOSS in a.metrics]
        total = sum(examples for _, examples in reported)
        return sum(loss * examples for loss, examples in reported) / total if reported else None

    def outcome(
        self, weights: Sequence[float], *, ended_s: float, model_hash: bytes, average_P: Vector, buffers: Arrays
    ) -> RoundOutcome:
        """The closed round, with the accepted updates' normalised ``weights``."""
        return RoundOutcome(
            round=self.number,
            started_s=self.started_s,
            ended_s=ended_s,
            selected=self.selected,
            accepted=[replace(a, weight=w) for a, w in zip(self.accepted, weights, strict=True)],
            refused=self.refused,
            late=self.late,
            bytes_down=self.bytes_down,
            bytes_up=self.bytes_up,
            base_hash=self.base_hash,
            model_hash=model_hash,
            average_P=average_P,
            buffers=buffers,
            rolled_back=self.rolled_back,
            ordered=self.ordered,
            dropped=self.dropped,
        )
