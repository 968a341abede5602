"""A SuperNode that is told to end: when it goes on, what it hands back, and when it leaves."""

from __future__ import annotations

import inspect
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flwr.app import Message, MessageType, Metadata, RecordDict
from flwr.app.message.message import make_message
from flwr.supernode import start_client_internal

from hypergpu_fl.node.draining import SIGNALS, TAKEN_WITHIN_S, Draining
from strategies import wire
from strategies.flower_internals import SUPERNODE_PULL, SUPERNODE_PUSH, SUPERNODE_SIGNALS


class Ended(Exception):
    """Flower's handler was called."""


class Loop:
    """Flower's main loop on a clock that the test moves, with one node's message and its reply."""

    def __init__(self, steps: pytest.MonkeyPatch, *, work_s: float, within_s: float) -> None:
        self.now_s, self.replies, self.slept_s = 0.0, list[Message](), 0.0
        self.work_s = work_s
        self.draining = Draining(within_s, clock=lambda: self.now_s, sleep=self._sleep)
        steps.setattr(start_client_internal, "register_signal_handlers", self._register)
        steps.setattr(start_client_internal, "_pull_and_store_message", lambda receive: 1 if receive() else None)
        steps.setattr(start_client_internal, "_push_messages", self._push)
        steps.setattr(start_client_internal, "_insert_message", lambda reply, *rest: self.replies.append(reply))
        self.draining.join()
        SUPERNODE_SIGNALS.value()()
        self.at_s: dict[float, Callable[[], None]] = {}

    def _register(self) -> None:
        signal.signal(signal.SIGTERM, self._end)

    def _end(self, number: int, frame: object) -> None:
        raise Ended

    def _sleep(self, seconds: float) -> None:
        self.now_s += seconds
        self.slept_s += seconds

    def _push(self, *, state: Any, object_store: Any) -> None:
        done_s = self.now_s + self.work_s
        while self.now_s < done_s and not self.replies:
            self.now_s += 0.5
            for due_s in [due_s for due_s in self.at_s if due_s <= self.now_s]:
                self.at_s.pop(due_s)()
            self.draining.hand_back_if_late()

    def work(self) -> None:
        """Receive a message and answer it."""
        metadata = Metadata(1, "12", 1, 7, "", "", 0.0, 60.0, MessageType.TRAIN)
        message = make_message(metadata=metadata, content=RecordDict())
        assert SUPERNODE_PULL.value()(receive=lambda: (message, None)) == 1
        SUPERNODE_PUSH.value()(state=None, object_store=None)

    def told(self) -> None:
        signal.raise_signal(signal.SIGTERM)


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_an_idle_node_leaves_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Ended):
        Loop(monkeypatch, work_s=1, within_s=9).told()


def test_a_node_at_work_answers_and_stays_until_the_answer_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(monkeypatch, work_s=5, within_s=9)
    loop.at_s[2.0] = loop.told
    loop.work()
    assert not loop.replies  # its own reply is Flower's matter
    with pytest.raises(Ended):
        loop.work()
    assert loop.slept_s == pytest.approx(TAKEN_WITHIN_S)


def test_work_that_takes_too_long_is_handed_back_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(monkeypatch, work_s=500, within_s=9)
    loop.at_s[2.0] = loop.told
    loop.work()
    (reply,) = loop.replies
    assert (reply.error.code, reply.metadata.reply_to_message_id) == (wire.LEAVING, "12")
    assert loop.now_s == pytest.approx(2.0 + 9.0)


def test_told_twice_it_leaves_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(monkeypatch, work_s=500, within_s=100)
    loop.at_s |= {2.0: loop.told, 4.0: loop.told}
    with pytest.raises(Ended):
        loop.work()
    assert loop.now_s == 4.0


def test_flowers_main_loop_gives_its_steps_what_is_taken_from_them() -> None:
    taken = {SUPERNODE_PULL: {"receive"}, SUPERNODE_PUSH: {"state", "object_store"}}
    for step, names in taken.items():
        assert names <= inspect.signature(step.value()).parameters.keys()
