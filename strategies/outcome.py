"""What a round leaves behind, and who attends to it besides the strategy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from strategies.arrivals.flight import Flight
from strategies.errors import Reason
from strategies.model.aggregation import Update
from strategies.model.global_model import ModelStep
from strategies.model.layout import Arrays, Vector
from strategies.wire import COMPUTE_S, Hello, Reply


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
    def of(cls, flight: Flight, reply: Reply | None, now_s: float) -> Journey:
        """The journey that ended with ``reply``, if one could be read, at the latest now.

        The server's own timing goes over the node's.
        """
        order = flight.order
        given = cls(order.round, order.local_steps, order.codec) if order else cls()
        if reply is None:
            return replace(given, total_s=now_s - flight.sent_s)
        timing = reply.timing
        total_s = timing.arrived_s - flight.sent_s
        claimed_s = reply.metrics.get(COMPUTE_S, -1.0)
        own_s = claimed_s if 0 <= claimed_s <= total_s else None
        return replace(
            given,
            bytes_up=len(reply.blob),
            metrics=reply.metrics,
            download_s=timing.download_s,
            compute_s=own_s if timing.compute_s is None else timing.compute_s,
            upload_s=timing.upload_s,
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
    work was given up at its end. ``step`` is how the mean of what was accepted moved the model, None if it did not.
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
    step: ModelStep | None = None


T = TypeVar("T")


class Attendant(ABC, Generic[T]):
    """Who checks claims, prices updates and books rounds. ``T`` is what ``admit`` finds out, for ``added`` to use."""

    def vet(self, hello: Hello) -> None:
        """Raise ``Refused`` to keep a node that says so of itself from taking part."""

    def joined(self, row: int, node_id: int, hello: Hello) -> None:
        """See what a node said when it was asked who it is: new, back, or let out on probation."""

    @abstractmethod
    def admit(self, flight: Flight, reply: Reply) -> T:
        """Raise ``Refused`` to keep a reply from counting; else say what was found out."""

    def measure(self, update: Update, model_P: Vector) -> float | None:
        """Held-out loss of the model with this update alone; None where that is not measured."""
        return None

    def added(self, admitted: T, update: Update, model_P: Vector, held_out_loss: float | None) -> None:
        """See an update that counts, the model it is added to, and what ``measure`` found."""

    def closed(self, outcome: RoundOutcome) -> None:
        """See the round after the model's step."""

    def receipt(self, node_id: int) -> str:
        """What the next order to a node shall carry of settled contributions; empty: nothing."""
        return ""


class Bystander(Attendant[None]):
    """Admits everything and does nothing, so that one who only watches says what it watches."""

    def admit(self, flight: Flight, reply: Reply) -> None:
        """See ``Attendant.admit``."""
