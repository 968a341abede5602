"""Arrivals on a virtual clock: real training, simulated time, nothing sleeps, exact for a seed."""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Final

import numpy as np
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from strategies import wire
from strategies.arrivals.flight import Arrivals, Flight, VirtualLinks, array_bytes, failure, timing
from strategies.arrivals.progress import Progress
from strategies.errors import Refused
from strategies.flower_internals import Message as ProtoMessage
from strategies.flower_internals import message_from_proto, message_to_proto
from strategies.round.choosing import LONGEST_TTL_S

POLL_S: Final = 0.01  # between two looks for a simulated node's answer


class VirtualArrivals(Arrivals):
    """Each dispatched message is answered for real at once.

    ``links`` then says when, in virtual time, the answer would have arrived, and the clock jumps from arrival to
    arrival. A message that would outlive its TTL in virtual time is answered by an error when that has passed. In real
    time a simulated node may take as long as it takes: what comes of a run must not depend on the speed of the machine.
    """

    def __init__(self, grid: Grid, links: VirtualLinks, *, start_s: float = 0.0) -> None:
        super().__init__(grid, poll_s=POLL_S)
        self._links = links
        self._now_s = start_s
        self._dispatched = 0  # ties are broken by dispatch order, never by comparing messages
        self._events: list[tuple[float, int, Message]] = []

    @property
    def now_s(self) -> float:
        """Virtual seconds since the run began."""
        return self._now_s

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """See ``Arrivals.send_and_receive``."""
        terms = self._take_terms(timeout)
        end_s = self._now_s + terms.deadline_s
        self._dispatch(messages)
        while self._events and terms.wanted() and self._events[0][0] <= end_s:
            self._now_s, _, reply = heapq.heappop(self._events)
            yield reply
            self._flights.pop(reply.metadata.reply_to_message_id, None)
            self._dispatch(terms.refill())
        if terms.wanted() and self._events:  # the deadline passed while replies were still under way
            self._now_s = end_s

    def ask(self, messages: Sequence[Message], *, timeout_s: float) -> Iterator[tuple[int, Message]]:
        """See ``Arrivals.ask``; every simulated node is waited for."""
        return super().ask(messages, timeout_s=math.inf)

    def cancel(self) -> set[int]:
        """See ``Arrivals.cancel``; simulated nodes drop their work at once."""
        given_up = {flight.number for flight in self._flights.values()}
        self._flights.clear()
        self._events.clear()
        return given_up

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[np.uint8]]]:
        """The clock and what is in flight: JSON-able values, and one array of bytes a reply under way."""
        replies = {
            f"reply-{order}": np.frombuffer(message_to_proto(reply).SerializeToString(), dtype=np.uint8)
            for _, order, reply in self._events
        }
        flights = {message_id: _jsonable(asdict(flight)) for message_id, flight in self._flights.items()}
        return {
            "now_s": self._now_s,
            "dispatched": self._dispatched,
            "events": [[arrived_s, order] for arrived_s, order, _ in self._events],
            "flights": flights,
        }, replies

    def restore(self, state: Mapping[str, Any], replies: Mapping[str, NDArray[np.uint8]]) -> None:
        """Inverse of ``state``. Node ids in flight are those of the run that was saved."""
        self._now_s, self._dispatched = state["now_s"], state["dispatched"]
        self._events = [
            (arrived_s, order, message_from_proto(ProtoMessage.FromString(replies[f"reply-{order}"].tobytes())))
            for arrived_s, order in state["events"]
        ]
        self._flights = {message_id: _flight(saved) for message_id, saved in state["flights"].items()}

    def _send(self, messages: Sequence[Message]) -> tuple[dict[str, Message], list[Message]]:
        for message in messages:
            message.metadata.ttl = LONGEST_TTL_S  # Flower counts it on the wall clock
        return super()._send(messages)

    def _dispatch(self, messages: Iterable[Message]) -> None:
        sent, failures = self._push(messages, self._now_s)
        replies: dict[str, Message] = {}
        progress = Progress("%d of %d nodes have done their work", len(sent))
        while missing := [i for i in sent if i not in replies]:
            arrived = list(self._grid.pull_messages(missing))
            replies.update((reply.metadata.reply_to_message_id, reply) for reply in arrived)
            progress.reached(len(replies))
            if not arrived:
                time.sleep(self._poll_s)
        for message_id, message in sent.items():  # in dispatch order, so that chance is drawn in that order too
            self._schedule(message, self._flights[message_id], replies[message_id])
        for error in failures:
            self._add(self._now_s, error)

    def _schedule(self, message: Message, flight: Flight, reply: Message) -> None:
        content = reply.content if reply.has_content() else None
        bytes_up = array_bytes(content) if content else 0
        passage = self._links.passage(
            flight.node_id,
            sent_s=flight.sent_s,
            bytes_down=flight.bytes_down,
            bytes_up=bytes_up,
            samples=_samples(flight, content),
        )
        took_s = passage.total_s
        if not passage.delivered:
            reply = failure(message, "the simulated node dropped out")
        elif took_s > flight.ttl_s:
            took_s, reply = flight.ttl_s, failure(message, f"no reply within {flight.ttl_s:.0f} s")
        elif content is not None:
            measured = timing(flight, flight.sent_s + took_s, bytes_up)
            content[wire.TIMING] = replace(
                measured,
                download_s=passage.download_s,
                compute_s=passage.compute_s,
                upload_s=passage.upload_s,
                rtt_s=passage.rtt_s,
            ).record()
        self._add(flight.sent_s + took_s, reply)

    def _add(self, arrived_s: float, reply: Message) -> None:
        heapq.heappush(self._events, (arrived_s, self._dispatched, reply))
        self._dispatched += 1


def _samples(flight: Flight, content: RecordDict | None) -> float:
    """Samples the node says it processed, never less than none nor more than it was asked for."""
    try:
        claimed = max(0.0, wire.numbers(content, wire.METRICS).get(wire.SAMPLES, 0.0)) if content else 0.0
    except Refused:  # the reply is refused when it arrives
        claimed = 0.0
    return min(claimed, float(flight.order.local_steps * flight.order.batch_size)) if flight.order else claimed


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _jsonable(each) for key, each in value.items()}
    return {"hex": value.hex()} if isinstance(value, bytes) else value


def _flight(saved: Mapping[str, Any]) -> Flight:
    order = saved["order"] and {
        key: bytes.fromhex(value["hex"]) if isinstance(value, dict) else value for key, value in saved["order"].items()
    }
    return Flight(**{**saved, "order": order and wire.Order(**order)})
