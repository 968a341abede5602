"""The thread on which a sender works."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from hypergpu_fl.chain.errors import ForkAlarm
from hypergpu_fl.chain.sender import Sender
from hypergpu_fl.errors import ChainError

log = logging.getLogger(__name__)

_RETRY_S = 2.0
_JOIN_S = 10.0  # an endpoint that trickles bytes may delay a step longer; the thread is a daemon


class Courier:
    """Runs a sender's steps in the background.

    Parameters
    ----------
    make_sender : Callable[[], Sender]
        Called on the thread, because opening a chain may take seconds.
    """

    def __init__(self, make_sender: Callable[[], Sender]) -> None:
        self._make_sender = make_sender
        self._sender: Sender | None = None
        self._failure: ChainError | None = None
        self._lock = threading.Lock()
        self._wakes = 0  # so that a wake during a step is not mistaken for an old one
        self._news = threading.Event()
        self._idle = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="outbox", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def problem(self) -> ChainError | None:
        """What keeps the sender from sending; None if nothing does."""
        return self._sender.problem if self._sender is not None else self._failure

    @property
    def finalized_s(self) -> dict[int, float]:
        """Seconds from first broadcast to finality of each round that this process settled."""
        return dict(self._sender.finalized_s) if self._sender is not None else {}

    def wake(self) -> None:
        """Say that there is something new in the outbox."""
        with self._lock:
            self._wakes += 1
            self._idle.clear()
            self._news.set()

    def drain(self, timeout_s: float) -> bool:
        """Wait until everything is final, at most `timeout_s` seconds; whether it is. A fork alarm ends the wait."""
        deadline = time.monotonic() + timeout_s
        while not self._idle.wait(0.02):
            if time.monotonic() >= deadline or isinstance(self.problem, ForkAlarm) or not self._thread.is_alive():
                return False
        return True

    def stop(self) -> None:
        """Stop after the step at hand; what is not final stays in the outbox for the next start."""
        self._stop.set()
        self._news.set()
        self._thread.join(_JOIN_S)

    def _loop(self) -> None:
        while not self._stop.is_set():
            with self._lock:
                self._news.clear()
                wakes = self._wakes
            pause = self._step()
            with self._lock:
                if pause is None and wakes == self._wakes:
                    self._idle.set()
            self._news.wait(pause)

    def _step(self) -> float | None:
        try:
            if self._sender is None:
                self._sender = self._make_sender()
            return self._sender.step()
        except ChainError as error:
            self._failure = error
            return _RETRY_S
        except Exception:  # a database that is locked, a disk that is full: say so, and try again
            log.exception("outbox: unexpected error; trying again")
            return _RETRY_S
