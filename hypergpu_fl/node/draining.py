"""Lets a SuperNode that is told to end finish its work, or hand it back, before it leaves.

Flower 1.41 drops the work. It also discards a reply if the node leaves before the ServerApp has taken it, so the node
stays for some seconds after its last reply.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

from flwr.app import Error, Message

from strategies import wire
from strategies.flower_internals import SUPERNODE_PULL, SUPERNODE_PUSH, SUPERNODE_SIGNALS, replace

DRAIN_S: Final = 20.0  # Kubernetes kills what has not ended after 30 s, and some spot machines leave no more time
TAKEN_WITHIN_S: Final = 4.0  # the server looks for replies five times a second
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

log = logging.getLogger(__name__)


class Draining:
    """A SuperNode's work in hand, and whether the SuperNode has been told to end.

    Parameters
    ----------
    within_s : float
        How long work may continue after the signal; unfinished work is then handed back. A second signal ends the
        SuperNode at once.
    """

    def __init__(
        self,
        within_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._within_s, self._clock, self._sleep = within_s, clock, sleep
        self._in_hand: Message | None = None
        self._told_s: float | None = None
        self._replied_s: float | None = None
        self._reply: Callable[[Message], None] | None = None
        self._end: Callable[[int, FrameType | None], Any] = lambda number, frame: None

    def join(self) -> None:
        """Take part in the steps of Flower's main loop."""
        from strategies.flower_internals import _insert_message as insert

        register, pull, push = SUPERNODE_SIGNALS.value(), SUPERNODE_PULL.value(), SUPERNODE_PUSH.value()

        def register_and_replace(**arguments: Any) -> None:
            register(**arguments)
            flowers_own: Any = signal.getsignal(signal.SIGTERM)
            self._end = flowers_own
            for number in SIGNALS:
                signal.signal(number, self.told)

        def pull_noting(*, receive: Callable[[], Any], **rest: Any) -> Any:
            self.leave_if_told()

            def noting() -> Any:
                if received := receive():
                    self._in_hand = received[0]
                return received

            run = pull(receive=noting, **rest)
            if run is None:
                self._in_hand = None
            return run

        def push_noting(*, state: Any, object_store: Any, **rest: Any) -> None:
            self._reply = lambda reply: insert(reply, state, object_store)
            push(state=state, object_store=object_store, **rest)
            self._in_hand, self._reply, self._replied_s = None, None, self._clock()

        replace(SUPERNODE_SIGNALS, register_and_replace)
        replace(SUPERNODE_PULL, pull_noting)
        replace(SUPERNODE_PUSH, push_noting)

    def told(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: end at once if idle or signalled before, otherwise when the work is done."""
        if self._told_s is not None or self._idle:
            self._end(number, frame)
            return
        self._told_s = self._clock()
        log.warning("this node leaves when its work is done, in %.0f s at the latest", self._within_s)

    def hand_back_if_late(self) -> None:
        """Answer for work that takes too long; called while its reply is awaited."""
        if self._told_s is None or self._clock() - self._told_s < self._within_s:
            return
        if self._in_hand is not None and self._reply is not None:
            reply, self._reply = self._reply, None
            reply(Message(Error(code=wire.LEAVING, reason="the node leaves"), reply_to=self._in_hand))

    def leave_if_told(self) -> None:
        """If told to end, wait until the ServerApp has had time to take the last reply, and end."""
        if self._told_s is None:
            return
        if self._replied_s is not None and (left_s := self._replied_s + TAKEN_WITHIN_S - self._clock()) > 0:
            self._sleep(left_s)
        self._end(signal.SIGTERM, None)

    @property
    def _idle(self) -> bool:
        taken = self._replied_s is None or self._clock() - self._replied_s > TAKEN_WITHIN_S
        return self._in_hand is None and taken
