"""Messages under way, the terms on which a round waits for them, and what both clocks share.

An ``Arrivals`` is a Flower Grid whose ``send_and_receive`` is a generator: it sends the messages, then yields each
reply as it arrives, until the terms of the round are met. What has not arrived by then stays in flight and is
yielded in a later round. Both clocks behave alike, so a strategy cannot tell them apart.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid

from strategies import wire
from strategies.arrivals.progress import Progress
from strategies.flower_internals import SUPERLINK_NODE_ID

NOT_SENT = 3  # Flower's code for a message that is unavailable
NODE_UNREACHABLE = 5  # Flower's code for a node that vanished
LOOK_AGAIN_S = 1.0
SENT_AT_ONCE = 256  # messages


@dataclass(frozen=True, slots=True)
class Terms:
    """Who says when a round ends: after ``deadline_s`` seconds, or when ``wanted`` says that no reply is any more.

    Both callables are asked after each reply has been dealt with; ``refill`` gives what shall be sent then.
    """

    deadline_s: float
    wanted: Callable[[], bool]
    refill: Callable[[], Iterable[Message]]


@dataclass(frozen=True, slots=True)
class Flight:
    """A message under way: when and to whom it went, of what type, how long it may take, and what it orders.

    Seconds are on the arrivals' clock, ``ttl_s`` too. ``number`` is what the sender knows an order by; -1, and no
    ``order``, for a message that is none.
    """

    node_id: int
    message_type: str
    sent_s: float
    ttl_s: float
    bytes_down: int
    number: int = -1
    order: wire.Order | None = None


@dataclass(frozen=True, slots=True)
class Passage:
    """What a message's journey takes, in seconds; ``delivered`` is False when the reply is lost."""

    download_s: float
    compute_s: float
    upload_s: float
    rtt_s: float
    delivered: bool = True

    @property
    def total_s(self) -> float:
        """From sending the message to receiving its reply."""
        return self.download_s + self.compute_s + self.upload_s + self.rtt_s


class VirtualLinks(Protocol):
    """Simulated links and processors, asked once a message."""

    def passage(self, node_id: int, *, sent_s: float, bytes_down: int, bytes_up: int, samples: float) -> Passage:
        """How long this message to ``node_id`` takes, sent at virtual time ``sent_s``."""
        ...


class Arrivals(Grid):
    """What both clocks share: a proxy of another Grid that knows which nodes are at work."""

    def __init__(self, grid: Grid, *, poll_s: float) -> None:
        self._grid = grid
        self._poll_s = poll_s
        self._flights: dict[str, Flight] = {}
        self._asked: dict[str, int] = {}
        self._queries: dict[str, Message] = {}  # that were asked and not answered
        self.terms: Terms | None = None

    @property
    @abstractmethod
    def now_s(self) -> float:
        """Seconds since the run began."""

    @abstractmethod
    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Send, then yield replies in arrival order until ``terms`` are met; without terms, until all are in."""

    @abstractmethod
    def cancel(self) -> set[int]:
        """Give up on everything in flight; numbers of the orders that will not be answered any more."""

    def ask(self, messages: Sequence[Message], *, timeout_s: float) -> Iterator[tuple[int, Message]]:
        """Exchange messages beside the rounds: it touches neither the clock nor what is in flight.

        Yields the asked node's id with each reply, in the order of asking. What has not come within ``timeout_s`` of
        wall time is yielded by a later call; Flower answers for a silent node after the message's TTL.
        """
        sent, _ = self._send(messages)
        self._queries.update(sent)
        self._asked.update((message_id, message.metadata.dst_node_id) for message_id, message in sent.items())
        replies: dict[str, Message] = {}
        give_up_s = time.monotonic() + timeout_s
        progress = Progress("%d of %d nodes have said who they are", len(self._asked))
        while missing := [i for i in self._asked if i not in replies]:
            replies.update((r.metadata.reply_to_message_id, r) for r in self._answers(missing))
            progress.reached(len(replies))
            if time.monotonic() > give_up_s:
                break
            if len(replies) < len(self._asked):
                time.sleep(self._poll_s)
        for message_id in [i for i in self._asked if i in replies]:
            self._queries.pop(message_id, None)
            yield self._asked.pop(message_id), replies[message_id]

    def _answers(self, message_ids: Sequence[str]) -> Iterable[Message]:
        """Replies to what was asked that are there in full; it waits for none."""
        return self._grid.pull_messages(message_ids)

    def until(self, condition: Callable[[], bool], *, within_s: float) -> bool:
        """Ask for a condition, at once and again and again for ``within_s`` of wall time; whether it came true."""
        give_up_s = time.monotonic() + within_s
        while not condition():
            if time.monotonic() >= give_up_s:
                return False
            time.sleep(LOOK_AGAIN_S)
        return True

    def asked(self) -> set[int]:
        """Ids of the nodes that were asked and have not answered."""
        return set(self._asked.values())

    def flight(self, reply: Message) -> Flight:
        """The message that ``reply`` answers. Valid until the next reply is asked for.

        Errors made by the SuperLink carry its own node id, so the answered message is what tells the node.
        """
        return self._flights[reply.metadata.reply_to_message_id]

    def busy(self) -> set[int]:
        """Ids of nodes that have work and have not answered."""
        return {flight.node_id for flight in self._flights.values()}

    def _take_terms(self, timeout: float | None) -> Terms:
        terms, self.terms = self.terms, None
        return terms or Terms(float("inf") if timeout is None else timeout, lambda: True, lambda: ())

    def _send(self, messages: Sequence[Message]) -> tuple[dict[str, Message], list[Message]]:
        """Messages sent, by the id that the Grid gave each, and those that it would not take."""
        taken: set[str] = set()
        progress = Progress("%d of %d messages are sent", len(messages))
        for start in range(0, len(messages), SENT_AT_ONCE):
            progress.reached(start)
            taken.update(i for i in self._grid.push_messages(messages[start : start + SENT_AT_ONCE]) if i)
        sent = {m.metadata.message_id: m for m in messages if m.metadata.message_id in taken}
        return sent, [m for m in messages if m.metadata.message_id not in taken]

    def _push(self, messages: Iterable[Message], sent_s: float) -> tuple[dict[str, Message], list[Message]]:
        """Push and enter the flights; also the error replies that stand for messages that could not be sent."""
        batch = list(messages)
        ttls_s = [message.metadata.ttl for message in batch]
        sent, unsent = self._send(batch)
        for message, ttl_s in zip(batch, ttls_s, strict=True):
            is_order = wire.ORDER in message.content.config_records
            self._flights[message.metadata.message_id] = Flight(
                node_id=message.metadata.dst_node_id,
                message_type=message.metadata.message_type,
                sent_s=sent_s,
                ttl_s=ttl_s,
                bytes_down=array_bytes(message.content),
                number=int(message.metadata.group_id) if is_order else -1,
                order=wire.Order.read(message.content) if is_order else None,
            )
        return sent, [failure(m, "the message could not be sent", code=NOT_SENT) for m in unsent]

    def set_run(self, run: Any) -> None:
        """Pass on to the wrapped Grid."""
        self._grid.set_run(run)

    @property
    def run(self) -> Any:
        """The run of the wrapped Grid."""
        return self._grid.run

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        """Pass on to the wrapped Grid."""
        return self._grid.create_message(*args, **kwargs)

    def get_node_ids(self) -> Iterable[int]:
        """Ids of the nodes that are connected."""
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Pass on to the wrapped Grid."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pass on to the wrapped Grid."""
        return self._grid.pull_messages(message_ids)


def failure(message: Message, reason: str, *, code: int = NODE_UNREACHABLE) -> Message:
    """The error reply that stands for an answer to ``message`` that will not come."""
    return Message(Error(code=code, reason=reason), reply_to=message)


def has_left(reply: Message) -> bool:
    """Whether an error reply tells that its node goes, by the node's word, or has gone, by the SuperLink's."""
    if not reply.has_error():
        return False
    vanished = reply.error.code == NODE_UNREACHABLE and reply.metadata.src_node_id == SUPERLINK_NODE_ID
    return vanished or reply.error.code == wire.LEAVING


def array_bytes(content: RecordDict) -> int:
    """Bytes of all arrays in ``content``: what dominates a message on the wire."""
    return sum(len(array.data) for record in content.array_records.values() for array in record.values())


def timing(flight: Flight, arrived_s: float, bytes_up: int) -> wire.Timing:
    """What the server measured of a whole round trip."""
    return wire.Timing(flight.sent_s, arrived_s, flight.bytes_down, bytes_up)
