"""What a round leaves behind, and the interface of whoever else takes part in rounds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from strategies.arrivals.flight import Flight
from strategies.errors import Reason
from strategies.model.aggregation import Update
from strategies.model.global_model import KeptVersion, ModelStep
from strategies.model.layout import Arrays, Vector
from strategies.wire import COMPUTE_S, Hello, Reply


@dataclass(frozen=True, slots=True)
class Ordered:
    """Work that a node was given, and the size of the message that brought it the model."""

    row: int
    node: str
    steps: int
    codec: str
    bytes_down: int


@dataclass(frozen=True, slots=True)
class Journey:
    """An order from sending to reply: the ``round`` in which it was given, its work, and the time it took.

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
        """The journey that ended with ``reply``, or that ended now if no reply could be read.

        The server's own measurements take precedence over the node's.
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

    ``model_hash`` is of the version that nodes train from next. ``average_P`` is what is evaluated and kept: the
    average of the versions, or the latest version if they are not averaged. ``rolled_back`` is the version whose model
    was restored because the loss had exploded, else None. ``ordered`` is the work given in this round, ``dropped`` the
    rows whose work was given up at its end. ``step`` is how the mean of the accepted updates moved the model, None if
    it did not.
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


class Witness(ABC):
    """Keeps the updates of the round that was stepped last, and measures what some of them make."""

    @abstractmethod
    def counted(self, number: int) -> Update:
        """The update that was added as number ``number``, from 0."""

    @abstractmethod
    def held_out(self, made: KeptVersion, *, alone: bool) -> float:
        """Held-out loss of a model that some updates made; NaN if it cannot be measured.

        It is the loss that `strategies.engine.Engine.evaluated` is told, or for a single update ``alone``, which is
        only compared with others, a cheaper one.
        """


T = TypeVar("T")


class Attendant(ABC, Generic[T]):
    """Checks claims, prices updates and books rounds. ``T`` is what ``admit`` returns for ``added`` to use."""

    def vet(self, node_id: int, hello: Hello) -> None:
        """Raise ``Refused`` to keep Flower's node ``node_id``, which sent this hello, from taking part."""

    def joined(self, row: int, node_id: int, hello: Hello) -> None:
        """Take notice of a node that said who it is: a new one, one that is back, or one on probation."""

    @abstractmethod
    def admit(self, flight: Flight, reply: Reply) -> T:
        """Raise ``Refused`` to keep a reply from counting; otherwise return what `added` needs."""

    def measure(self, update: Update, model_P: Vector) -> float | None:
        """Held-out loss of the model with this update alone; None if that is not measured."""
        return None

    def added(self, admitted: T, update: Update, model_P: Vector, held_out_loss: float | None) -> None:
        """Take notice of an update that counts, with the model it is added to and what ``measure`` returned."""

    @property
    def witness(self) -> Witness | None:
        """Who tells which updates exploded a model; None: updates are not kept, and nobody is blamed."""
        return None

    def closed(self, outcome: RoundOutcome) -> None:
        """Take notice of a closed round, after the model's step."""

    def receipt(self, node_id: int) -> str:
        """Receipts for settled contributions that the next order to a node will carry; empty: none."""
        return ""


class Bystander(Attendant[None]):
    """Admits everything and does nothing; a base for attendants that only watch some of it."""

    def admit(self, flight: Flight, reply: Reply) -> None:
        """See ``Attendant.admit``."""
