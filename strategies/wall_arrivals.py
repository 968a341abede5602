"""Arrivals on the wall clock: a bounded number of pullers, none of which waits for a node that is still at work."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from flwr.app import Message, RecordDict
from flwr.app.message.message import make_message
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError

from strategies import wire
from strategies.flight import Arrivals, Tally, failure, payload_bytes, timing
from strategies.flower_pull import pull

log = logging.getLogger(__name__)

LEAST_TIMED_BYTES = 500_000  # a smaller reply's time is that of its requests and of Flower, not of the link
GRACE_S = 60.0  # after its TTL, until which the SuperLink itself should have answered for the node


class Arrived(NamedTuple):
    """A reply, the message it answers, when its last byte was in, and how long its upload took, where that shows."""

    message_id: str
    reply: Message
    arrived_s: float
    upload_s: float | None = None
    takes_room: bool = True


class WallArrivals(Arrivals):
    """Pullers take turns at the messages in flight, so one slow upload delays no other.

    Flower discards a finished reply whose node goes offline before it is pulled, hence replies are pulled at once,
    also between rounds; but no more than ``pullers`` of them are held before the round takes them, for memory.

    Parameters
    ----------
    grid : Grid
        Flower's own.
    pullers : int
        Concurrent pulls, and the most replies held.
    poll_s : float
        Seconds between two looks at the same message while few are in flight.
    start_s : float
        What the run's clock shows now.
    """

    def __init__(self, grid: Grid, *, pullers: int = 8, poll_s: float = 0.2, start_s: float = 0.0) -> None:
        super().__init__(grid, poll_s=poll_s)
        self._began_s = time.monotonic() - start_s
        self._pullers = pullers
        self._to_pull: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._arrived: queue.SimpleQueue[Arrived] = queue.SimpleQueue()
        self._room = threading.Semaphore(pullers)
        self._stopped = threading.Event()
        self._envelopes: dict[str, Message] = {}
        self._looked: dict[str, float] = {}
        self._threads: list[threading.Thread] = []

    @property
    def now_s(self) -> float:
        """Monotonic seconds since the run began, without those between a stop and its resumption."""
        return time.monotonic() - self._began_s

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """See ``Arrivals.send_and_receive``."""
        terms = self._take_terms(timeout)
        end_s = self.now_s + terms.deadline_s
        self._dispatch(messages)
        tally = Tally(terms)
        while self._flights and tally.open and (left_s := end_s - self.now_s) > 0:
            try:
                arrived = self._arrived.get(timeout=min(left_s, threading.TIMEOUT_MAX))
            except queue.Empty:
                break
            message_id, reply = arrived.message_id, arrived.reply
            tally.take(reply)
            if reply.has_content():
                bytes_up = payload_bytes(reply.content)
                reply.content[wire.TIMING] = timing(
                    self._flights[message_id], arrived.arrived_s, bytes_up, upload_s=arrived.upload_s
                )
            if arrived.takes_room:
                self._room.release()
            del arrived  # before the next one is awaited: this one may be a whole model
            yield reply
            del reply
            del self._flights[message_id], self._envelopes[message_id]
            if terms.refill and tally.open:
                self._dispatch(terms.refill(self.now_s))

    def cancel(self) -> set[int]:
        """See ``Arrivals.cancel``; Flower cannot interrupt a ClientApp, so nobody becomes free before it answers."""
        return set()

    def close(self) -> None:
        """Stop pulling."""
        self._stopped.set()

    def _dispatch(self, messages: Iterable[Message]) -> None:
        batch = list(messages)
        sent, failures = self._push(batch, self.now_s)
        for message in batch:  # what an error reply is made from, without the model
            envelope = make_message(metadata=message.metadata, content=RecordDict())
            self._envelopes[message.metadata.message_id] = envelope
        for error in failures:
            self._arrived.put(Arrived(error.metadata.reply_to_message_id, error, self.now_s, takes_room=False))
        for message_id in sent:
            self._to_pull.put(message_id)
        while len(self._threads) < min(self._pullers, len(self._flights)):
            # daemons: a ServerApp that ends with work in flight must not hang on it
            thread = threading.Thread(target=self._pull, name=f"puller-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _pull(self) -> None:
        while not self._stopped.is_set():
            message_id = self._to_pull.get()
            self._room.acquire()
            arrived = self._look(message_id)
            if arrived is not None:
                self._arrived.put(arrived)
                del arrived
                continue
            self._room.release()
            self._to_pull.put(message_id)
            in_flight = max(1, len(self._flights))
            self._stopped.wait(self._poll_s * min(1.0, len(self._threads) / in_flight))

    def _look(self, message_id: str) -> Arrived | None:
        looked_s, now_s = self._looked.get(message_id, self.now_s), self.now_s
        self._looked[message_id] = now_s
        try:
            if (pulled := pull(self._grid, message_id, lambda: self.now_s)) is not None:
                arrived_s = self.now_s
                upload_s = None
                content = pulled.reply.content if pulled.reply.has_content() else RecordDict()
                if pulled.announced_s is not None and payload_bytes(content) >= LEAST_TIMED_BYTES:
                    # It was announced some time after the last look.
                    upload_s = arrived_s - pulled.announced_s + (now_s - looked_s) / 2
                del self._looked[message_id]
                return Arrived(message_id, pulled.reply, arrived_s, upload_s)
        except ObjectPullError as error:
            return Arrived(message_id, failure(self._envelopes[message_id], f"the upload broke off: {error}"), now_s)
        except Exception as error:  # the SuperLink may be restarting; a dead puller would lose its node for good
            log.warning("pulling %s failed, will be tried again: %s", message_id, error)
        flight = self._flights[message_id]
        if self.now_s > flight.sent_s + flight.ttl_s + GRACE_S:
            return Arrived(message_id, failure(self._envelopes[message_id], f"no reply in {flight.ttl_s:.0f} s"), now_s)
        return None
