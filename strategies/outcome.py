"""What a round leaves behind, and who attends to it besides the strategy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from strategies.aggregation import Update
from strategies.errors import Reason
from strategies.flight import Flight
from strategies.layout import Arrays, Vector
from strategies.wire import Hello, Reply


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
    codec: str
    examples: int
    bytes_up: int
    weight: float
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


T = TypeVar("T")


class Attendant(ABC, Generic[T]):
    """Who checks claims, prices updates and books rounds. ``T`` is what ``admit`` finds out, for ``added`` to use."""

    def joined(self, row: int, node_id: int, hello: Hello) -> None:
        """See what a node said when it was asked who it is: new, back, or let out on probation."""

    @abstractmethod
    def admit(self, flight: Flight, reply: Reply) -> T:
        """Raise ``Refused`` to keep a reply from counting; else say what was found out."""

    def added(self, admitted: T, update: Update, model_P: Vector) -> None:
        """See an update that counts, and the model it is added to."""

    def closed(self, outcome: RoundOutcome) -> None:
        """See the round after the model's step."""

    def receipt(self, node_id: int) -> str:
        """What the next order to a node shall carry of settled contributions; empty: nothing."""
        return ""


class Bystander(Attendant[None]):
    """Admits everything and does nothing, so that one who only watches says what it watches."""

    def admit(self, flight: Flight, reply: Reply) -> None:
        """See ``Attendant.admit``."""
