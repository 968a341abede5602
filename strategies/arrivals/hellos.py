"""Pulls hellos on the wall clock: a bounded number of threads, which give every upload its turn.

A hello that is announced and never uploaded costs its own node the round, and no other node anything. Hellos are small,
so a partial one is not kept until its next turn, and the number of threads bounds the memory.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from flwr.app import Message
from flwr.serverapp import Grid

from strategies import wire
from strategies.arrivals.flight import failure
from strategies.arrivals.flower_pull import Announcement, StillUploading, announced, pull

log = logging.getLogger(__name__)

HELLO_WITHIN_S = 60.0  # for an announced hello's upload; Flower gives no error in its place
LARGEST_HELLO: Final = 4 * 2**20  # bytes
PULLERS: Final = 4
TURN_S = 1.0  # for which a thread waits for one upload before it tries another


class _Announced(NamedTuple):
    """A hello being uploaded, the query that it answers, and how long it is waited for."""

    announcement: Announcement
    query: Message
    until_s: float


class Hellos:
    """Answers to queries, pulled in threads of their own.

    Parameters
    ----------
    grid : Grid
        Flower's own.
    poll_s : float
        Seconds that a thread pauses after an upload that has not ended.
    """

    def __init__(self, grid: Grid, *, poll_s: float) -> None:
        self._grid = grid
        self._poll_s = poll_s
        self._announced: set[str] = set()  # the SuperLink announces each once only
        self._to_pull: queue.SimpleQueue[_Announced] = queue.SimpleQueue()
        self._come: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._stopped = threading.Event()

    def answers(self, queries: Mapping[str, Message]) -> Iterator[Message]:
        """The complete answers to ``queries``, which are by message id. Does not wait for others."""
        try:
            fresh = [message_id for message_id in queries if message_id not in self._announced]
            for found in announced(self._grid, fresh) if fresh else ():
                if (query := queries.get(found.message_id)) is not None:
                    self._announced.add(found.message_id)
                    self._to_pull.put(_Announced(found, query, time.monotonic() + HELLO_WITHIN_S))
        except Exception as error:  # the SuperLink may be restarting
            log.warning("looking for hellos failed, will be tried again: %s", error)
        while len(self._threads) < min(PULLERS, len(self._announced)):
            # daemon threads: a ServerApp that ends must not hang on an upload
            self._threads.append(threading.Thread(target=self._pull, name="hello", daemon=True))
            self._threads[-1].start()
        while not self._come.empty():
            yield self._come.get()

    def close(self) -> None:
        """Stop pulling."""
        self._stopped.set()

    def _pull(self) -> None:
        while not self._stopped.is_set():
            under_way = self._to_pull.get()
            try:
                answer = self._pulled(under_way)
            except StillUploading:  # it is the other uploads' turn
                self._to_pull.put(under_way)
                self._stopped.wait(self._poll_s)
                continue
            if answer is None:  # no reply after all: ask again
                self._announced.discard(under_way.announcement.message_id)
            else:
                self._come.put(answer)

    def _pulled(self, under_way: _Announced) -> Message | None:
        announcement, query, until_s = under_way
        left_s = until_s - time.monotonic()
        if left_s < 0:
            return failure(query, f"its hello did not come in {HELLO_WITHIN_S:.0f} s")
        turn_s = min(TURN_S, left_s) if self._to_pull.empty() else 0.0
        try:
            return pull(self._grid, announcement, within_s=turn_s, largest_bytes=LARGEST_HELLO)
        except StillUploading:
            raise
        except Exception as error:  # a hostile hello may make Flower raise anything
            return failure(query, f"its hello cannot be read: {error}"[: wire.LONGEST_EXCUSE])
