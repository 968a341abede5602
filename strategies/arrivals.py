"""Replies in the order they arrive, on a virtual clock or on the wall clock.

An ``Arrivals`` is a Flower Grid whose ``send_and_receive`` is a generator: it sends the messages, then yields each
reply as it arrives, until the terms of the round are met. What has not arrived by then stays in flight and is
yielded in a later round. Both clocks behave alike, so a strategy cannot tell them apart.
"""

from __future__ import annotations

import heapq
import itertools
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Protocol

from flwr.app import Error, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from strategies import wire

NODE_UNREACHABLE = 5  # Flower's code for a node that vanished

Refill = Callable[[float], Iterable[Message]]


@dataclass(frozen=True, slots=True)
class Terms:
    """When a round ends: at ``quota`` replies or ``deadline_s`` seconds after its start, whichever comes first.

    ``refill`` is asked for more work at each arrival that does not end the round; it makes rounds asynchronous.
    """

    quota: int
    deadline_s: float
    refill: Refill | None = None


@dataclass(frozen=True, slots=True)
class Flight:
    """A message under way: when and to whom it went, of what type, and its plan."""

    node_id: int
    message_type: str
    sent_s: float
    bytes_down: int
    plan: dict[str, Any]


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

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._flights: dict[str, Flight] = {}
        self.terms: Terms | None = None

    @property
    @abstractmethod
    def now_s(self) -> float:
        """Seconds since the run began."""

    @abstractmethod
    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Send, then yield replies in arrival order until ``terms`` are met; without terms, until all are in."""

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
        return terms or Terms(quota=2**62, deadline_s=float("inf") if timeout is None else timeout)

    def _push(self, messages: Iterable[Message], sent_s: float) -> list[str]:
        batch = list(messages)
        flights = [
            Flight(
                node_id=message.metadata.dst_node_id,
                message_type=message.metadata.message_type,
                sent_s=sent_s,
                bytes_down=payload_bytes(message.content),
                plan=dict(message.content.config_records.get(wire.PLAN, {})),
            )
            for message in batch
        ]
        ids = list(self._grid.push_messages(batch)) if batch else []
        self._flights.update((i, f) for i, f in zip(ids, flights, strict=True) if i)
        return [i for i in ids if i]

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


class VirtualArrivals(Arrivals):
    """Arrivals on a virtual clock: real training, simulated time, nothing sleeps, exact for a seed.

    Each dispatched message is answered for real at once; ``links`` then says when, in virtual time, the answer
    would have arrived, and the clock jumps from arrival to arrival.
    """

    def __init__(self, grid: Grid, links: VirtualLinks, *, start_s: float = 0.0, poll_s: float = 0.01) -> None:
        super().__init__(grid)
        self._links = links
        self._now_s = start_s
        self._poll_s = poll_s
        self._order = itertools.count()  # ties are broken by dispatch order, never by comparing messages
        self._events: list[tuple[float, int, Message]] = []

    @property
    def now_s(self) -> float:
        """Virtual seconds since the run began."""
        return self._now_s

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """See ``Arrivals.send_and_receive``."""
        batch = list(messages)
        terms = self._take_terms(timeout)
        end_s = self._now_s + terms.deadline_s
        self._dispatch(batch)
        taken = 0
        while self._events and taken < terms.quota and self._events[0][0] <= end_s:
            self._now_s, _, reply = heapq.heappop(self._events)
            taken += 1
            yield reply
            self._flights.pop(reply.metadata.reply_to_message_id, None)
            if terms.refill and taken < terms.quota:
                self._dispatch(terms.refill(self._now_s))
        if taken < terms.quota and self._events:  # the deadline passed while replies were still under way
            self._now_s = end_s

    def _dispatch(self, messages: Iterable[Message]) -> None:
        batch = list(messages)
        pending = dict.fromkeys(self._push(batch, self._now_s))
        sent = {message.metadata.message_id: message for message in batch}
        replies: dict[str, Message] = {}
        while len(replies) < len(pending):
            arrived = list(self._grid.pull_messages([i for i in pending if i not in replies]))
            replies.update((reply.metadata.reply_to_message_id, reply) for reply in arrived)
            if not arrived:
                time.sleep(self._poll_s)
        for message_id in pending:  # in dispatch order, so that the links' chance is drawn in that order too
            self._schedule(message_id, replies[message_id], sent.get(message_id))

    def _schedule(self, message_id: str, reply: Message, sent: Message | None) -> None:
        flight = self._flights[message_id]
        bytes_up = payload_bytes(reply.content) if reply.has_content() else 0
        metrics = wire.numbers(reply.content, wire.METRICS) if reply.has_content() else {}
        passage = self._links.passage(
            flight.node_id,
            sent_s=flight.sent_s,
            bytes_down=flight.bytes_down,
            bytes_up=bytes_up,
            samples=metrics.get(wire.SAMPLES, 0.0),
        )
        arrived_s = flight.sent_s + passage.total_s
        if not passage.delivered and sent is not None:
            reply = sent.create_error_reply(Error(code=NODE_UNREACHABLE, reason="the simulated node dropped out"))
        elif reply.has_content():
            reply.content[wire.TIMING] = _timing(flight, arrived_s, bytes_up, passage)
        heapq.heappush(self._events, (arrived_s, next(self._order), reply))


class WallArrivals(Arrivals):
    """Arrivals on the wall clock: every reply has its own bounded puller, so one slow upload delays no other.

    Flower discards a finished reply whose node goes offline before it is pulled, hence replies are pulled at once,
    also between rounds.
    """

    def __init__(self, grid: Grid, *, pullers: int = 8, poll_s: float = 0.2) -> None:
        super().__init__(grid)
        self._began_s = time.monotonic()
        self._poll_s = poll_s
        self._pool = ThreadPoolExecutor(pullers, thread_name_prefix="puller")
        self._pulls: dict[Future[Message], str] = {}

    @property
    def now_s(self) -> float:
        """Monotonic seconds since this object was made."""
        return time.monotonic() - self._began_s

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """See ``Arrivals.send_and_receive``."""
        batch = list(messages)
        terms = self._take_terms(timeout)
        end_s = self.now_s + terms.deadline_s
        self._dispatch(batch)
        taken = 0
        while self._pulls and taken < terms.quota and (left_s := end_s - self.now_s) > 0:
            done, _ = wait(self._pulls, timeout=None if left_s == float("inf") else left_s, return_when=FIRST_COMPLETED)
            for pull in list(done)[: terms.quota - taken]:
                message_id = self._pulls.pop(pull)
                taken += 1
                reply = pull.result()
                if reply.has_content():
                    flight = self._flights[message_id]
                    reply.content[wire.TIMING] = _timing(flight, self.now_s, payload_bytes(reply.content), None)
                yield reply
                del self._flights[message_id]
                if terms.refill and taken < terms.quota:
                    self._dispatch(terms.refill(self.now_s))

    def _dispatch(self, messages: Iterable[Message]) -> None:
        for message_id in self._push(messages, self.now_s):
            self._pulls[self._pool.submit(self._pull, message_id)] = message_id

    def _pull(self, message_id: str) -> Message:
        while True:
            for reply in self._grid.pull_messages([message_id]):
                return reply
            time.sleep(self._poll_s)


def payload_bytes(content: RecordDict) -> int:
    """Bytes of all arrays in ``content``: what dominates a message on the wire."""
    return sum(len(array.data) for record in content.array_records.values() for array in record.values())


def _timing(flight: Flight, arrived_s: float, bytes_up: int, passage: Passage | None) -> MetricRecord:
    measured = (
        {
            wire.DOWNLOAD_S: passage.download_s,
            wire.COMPUTE_S: passage.compute_s,
            wire.UPLOAD_S: passage.upload_s,
            wire.RTT_S: passage.rtt_s,
        }
        if passage
        else {}
    )
    return MetricRecord(
        {
            wire.SENT_S: flight.sent_s,
            wire.ARRIVED_S: arrived_s,
            wire.BYTES_DOWN: flight.bytes_down,
            wire.BYTES_UP: bytes_up,
            **measured,
        }
    )
