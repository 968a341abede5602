"""Arrivals on the wall clock: one watcher asks for all replies, and a bounded number of pullers fetch them."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from strategies import wire
from strategies.arrivals.flight import Arrivals, array_bytes, failure, timing
from strategies.arrivals.flower_pull import LARGEST_REPLY, Announcement, StillUploading, announced, pull
from strategies.arrivals.hellos import Hellos
from strategies.flower_internals import HttpGrid, ObjectPullError, make_message

log = logging.getLogger(__name__)

LEAST_TIMED_BYTES = 500_000  # a smaller reply's time is spent on requests and in Flower, not on the link
TURN_S = 2.0  # for which a puller waits for one upload before it tries another
GRACE_S = 60.0  # after a message's TTL; by then the SuperLink should have answered for the node


class Arrived(NamedTuple):
    """A reply, the message it answers, when it was complete, and how long its upload took, if that was measured."""

    message_id: str
    reply: Message
    arrived_s: float
    upload_s: float | None = None
    takes_room: bool = True


@dataclass
class Pulling:
    """An announced reply: when it was seen, and how much earlier it was announced on average.

    ``come`` holds what a puller's earlier turns have fetched; ``at_once`` is whether the first turn began when it was
    seen.
    """

    announcement: Announcement
    seen_s: float
    earlier_s: float
    come: dict[str, bytes] = field(default_factory=dict)
    at_once: bool | None = None


class WallArrivals(Arrivals):
    """A watcher asks for all messages in flight at once; pullers fetch the replies, so one upload delays no other.

    Flower discards a finished reply whose node goes offline before it is pulled, so replies are pulled at once, also
    between rounds. To bound memory, at most ``pullers`` of them are held before the round takes them.

    Parameters
    ----------
    grid : Grid
        Flower's own.
    pullers : int
        Concurrent pulls, and the most replies held.
    poll_s : float
        Seconds between two polls.
    start_s : float
        What the run's clock shows now.
    largest_bytes : int
        Of a reply; a larger one is neither fetched nor assembled.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        pullers: int = 8,
        poll_s: float = 0.2,
        start_s: float = 0.0,
        largest_bytes: int = LARGEST_REPLY,
    ) -> None:
        super().__init__(grid, poll_s=poll_s)
        self._largest_bytes = largest_bytes
        self._hellos = Hellos(grid, poll_s=poll_s)
        self._began_s = time.monotonic() - start_s
        self._pullers = pullers
        self._awaited: set[str] = set()  # messages whose replies have not been announced
        self._awaiting = threading.Lock()
        self._parked: dict[str, int] = {}  # bytes kept of uploads that have not ended, by the message they answer
        self._parking = threading.Lock()
        self._to_pull: queue.SimpleQueue[Pulling] = queue.SimpleQueue()
        self._arrived: queue.SimpleQueue[Arrived] = queue.SimpleQueue()
        self._room = threading.Semaphore(pullers)
        self._stopped = threading.Event()
        self._envelopes: dict[str, Message] = {}
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
        while self._flights and terms.wanted() and (left_s := end_s - self.now_s) > 0:
            try:
                arrived = self._arrived.get(timeout=min(left_s, threading.TIMEOUT_MAX))
            except queue.Empty:
                break
            message_id, reply = arrived.message_id, arrived.reply
            if reply.has_content():
                measured = timing(self._flights[message_id], arrived.arrived_s, array_bytes(reply.content))
                reply.content[wire.TIMING] = replace(measured, upload_s=arrived.upload_s).record()
            if arrived.takes_room:
                self._room.release()
            del arrived  # it may be a whole model, so free it before waiting for the next
            yield reply
            del reply
            del self._flights[message_id], self._envelopes[message_id]
            self._dispatch(terms.refill())

    def _answers(self, message_ids: Sequence[str]) -> Iterable[Message]:
        """See ``Arrivals._answers``: announced hellos are pulled in separate threads and delay nobody."""
        if not isinstance(self._grid, HttpGrid):
            return super()._answers(message_ids)
        return self._hellos.answers({i: self._queries[i] for i in message_ids if i in self._queries})

    def cancel(self) -> set[int]:
        """See ``Arrivals.cancel``; Flower cannot interrupt a ClientApp, so nobody becomes free before it answers."""
        return set()

    def close(self) -> None:
        """Stop pulling."""
        self._stopped.set()
        self._hellos.close()

    def _dispatch(self, messages: Iterable[Message]) -> None:
        batch = list(messages)
        sent, failures = self._push(batch, self.now_s)
        for message in batch:  # what an error reply is made from, without the model
            envelope = make_message(metadata=message.metadata, content=RecordDict())
            self._envelopes[message.metadata.message_id] = envelope
        for error in failures:
            self._arrived.put(Arrived(error.metadata.reply_to_message_id, error, self.now_s, takes_room=False))
        with self._awaiting:
            self._awaited.update(sent)
        if not self._threads:
            self._start(self._watch, "watcher")
        while len(self._threads) <= min(self._pullers, len(self._flights)):
            self._start(self._pull, f"puller-{len(self._threads)}")

    def _start(self, target: Callable[[], None], name: str) -> None:
        # daemon threads: a ServerApp that ends with work in flight must not hang on it
        thread = threading.Thread(target=target, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _watch(self) -> None:
        looked_s = self.now_s
        while not self._stopped.is_set():
            with self._awaiting:
                awaited = list(self._awaited)
            last_s, looked_s = looked_s, self.now_s
            self._look([message_id for message_id in awaited if not self._given_up(message_id)], looked_s - last_s)
            self._stopped.wait(self._poll_s)

    def _given_up(self, message_id: str) -> bool:
        """Whether the message is past its time, so that not even the SuperLink will answer it."""
        flight = self._flights[message_id]
        if self.now_s <= flight.sent_s + flight.ttl_s + GRACE_S:
            return False
        self._taken(message_id)
        error = failure(self._envelopes[message_id], f"no reply in {flight.ttl_s:.0f} s")
        self._arrived.put(Arrived(message_id, error, self.now_s, takes_room=False))
        return True

    def _look(self, message_ids: Sequence[str], since_s: float) -> None:
        try:
            found = announced(self._grid, message_ids) if message_ids else []
        except Exception as error:  # the SuperLink may be restarting; a dead watcher would lose all nodes for good
            log.warning("looking for replies failed, will be tried again: %s", error)
            return
        for announcement in found:
            if self._taken(announcement.message_id):
                self._to_pull.put(Pulling(announcement, self.now_s, since_s / 2))

    def _taken(self, message_id: str) -> bool:
        """Take a message out of those awaited; False if it was not among them, as for a node's second reply."""
        with self._awaiting:
            awaited = message_id in self._awaited
            self._awaited.discard(message_id)
        return awaited

    def _pull(self) -> None:
        while not self._stopped.is_set():
            pulling = self._to_pull.get()
            self._room.acquire()
            try:
                arrived = self._pulled(pulling)
            except StillUploading:  # it is the other uploads' turn
                self._room.release()
                self._park(pulling)
                self._to_pull.put(pulling)
                self._stopped.wait(self._poll_s)
                continue
            with self._parking:
                self._parked.pop(pulling.announcement.message_id, None)
            if arrived is None:
                self._room.release()
                with self._awaiting:
                    self._awaited.add(pulling.announcement.message_id)
            else:
                self._arrived.put(arrived)
            del arrived

    def _park(self, pulling: Pulling) -> None:
        """Keep the part of an upload that has arrived for its next turn, within the memory of ``pullers`` replies.

        Otherwise nodes that withhold the end of their replies could make the server keep all the rest.
        """
        message_id, size = pulling.announcement.message_id, sum(map(len, list(pulling.come.values())))
        with self._parking:
            others = sum(self._parked.values()) - self._parked.get(message_id, 0)
            if others + size > self._pullers * self._largest_bytes:
                pulling.come.clear()
                size = 0
            self._parked[message_id] = size

    def _pulled(self, pulling: Pulling) -> Arrived | None:
        message_id = pulling.announcement.message_id
        if pulling.at_once is None:  # a later start would measure the wait for a puller
            pulling.at_once = self.now_s - pulling.seen_s <= self._poll_s
        try:
            left_s = self._flights[message_id].sent_s + self._flights[message_id].ttl_s + GRACE_S - self.now_s
            if left_s < 0:
                raise ObjectPullError(message_id, "it did not end in the message's time")
            reply = pull(
                self._grid,
                pulling.announcement,
                within_s=min(TURN_S if self._to_pull.empty() else 0.0, left_s),
                largest_bytes=self._largest_bytes,
                come=pulling.come,
            )
        except StillUploading:
            raise
        except ObjectPullError as error:
            reply = failure(self._envelopes[message_id], f"the upload broke off: {error}")
        except Exception as error:  # as in the watcher; a dead puller would lose its node
            log.warning("pulling %s failed, will be tried again: %s", message_id, error)
            return None
        if reply is None:
            return None
        arrived_s, upload_s = self.now_s, None
        content = reply.content if reply.has_content() else RecordDict()
        if pulling.at_once and pulling.announcement.reply_id and array_bytes(content) >= LEAST_TIMED_BYTES:
            upload_s = arrived_s - pulling.seen_s + pulling.earlier_s
        return Arrived(message_id, reply, arrived_s, upload_s)
