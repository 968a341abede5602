"""What a round leaves behind, and who may watch it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from flwr.app import Message, RecordDict

from strategies import wire
from strategies.aggregation import Update
from strategies.errors import Reason
from strategies.flight import Flight
from strategies.layout import Arrays, Vector
from strategies.planning import FleetPlan


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


@dataclass(frozen=True, slots=True)
class RefusedReply:
    """A reply that did not count, and why."""

    row: int
    node: str
    round: int
    reason: Reason
    detail: str


@dataclass(frozen=True)
class RoundOutcome:
    """Everything a closed round leaves behind. Seconds are on the arrivals' clock.

    ``model_hash`` is of the version that nodes train from next, ``average_P`` what is evaluated and kept: the average
    of the versions, or the latest where they are not averaged. ``rolled_back`` is the version whose model was restored
    because the loss had exploded, else None.
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
    selected: list[int] = field(default_factory=list)
    accepted: list[Accepted] = field(default_factory=list)
    refused: list[RefusedReply] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    late: int = 0
    bytes_down: int = 0
    bytes_common: float = 0.0
    bytes_up: int = 0
    refills: int = 0
    rolled_back: int | None = None

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
        )
