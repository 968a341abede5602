"""The wall clock: the same behaviour in real time. Nothing here asserts how long anything took."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence

import numpy as np
import pytest
from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid
from strategy_grid import Counting, NodeGrid, Trainer, reply_with

from strategies import wire
from strategies.arrivals import WallArrivals
from strategies.arrivals.flower_pull import Announcement, announced


def nodes(delays: dict[int, float]) -> NodeGrid:
    return NodeGrid({i: lambda message: reply_with(np.zeros(8, np.float32)) for i in delays}, delays=delays)


def order(node: int, ttl: float = 1e6) -> Message:
    return Message(RecordDict(), dst_node_id=node, message_type="train", ttl=ttl)


def run(arrivals: WallArrivals, batch: list[Message], terms: Counting | None = None) -> list[int]:
    arrivals.terms = terms and terms.terms()
    seen = []
    for reply in arrivals.send_and_receive(batch):
        seen.append(arrivals.flight(reply).node_id)
        if terms is not None:
            terms.take(reply)
    return seen


def test_replies_come_as_they_arrive_and_late_ones_in_the_next_round() -> None:
    arrivals = WallArrivals(nodes({0: 0.5, 1: 0.0, 2: 0.2}), poll_s=0.01)
    assert run(arrivals, [order(i) for i in range(3)], Counting(quota=2, deadline_s=60)) == [1, 2]
    assert arrivals.busy() == {0}
    assert run(arrivals, [], Counting(quota=1, deadline_s=60)) == [0]
    assert not arrivals.busy()
    arrivals.close()


def test_the_deadline_ends_a_round_although_a_node_is_silent() -> None:
    arrivals = WallArrivals(nodes({0: 0.0, 1: 3600.0}), poll_s=0.01)
    assert run(arrivals, [order(0), order(1)], Counting(quota=2, deadline_s=0.3)) == [0]
    assert arrivals.busy() == {1}
    assert arrivals.cancel() == set()
    arrivals.close()


def test_more_silent_nodes_than_pullers_keep_nobody_waiting() -> None:
    arrivals = WallArrivals(nodes({i: 3600.0 if i < 6 else 0.0 for i in range(7)}), pullers=2, poll_s=0.01)
    assert run(arrivals, [order(i) for i in range(7)], Counting(quota=1, deadline_s=30)) == [6]
    arrivals.close()


def test_one_look_asks_for_all_that_are_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[set[str]] = []

    def look(grid: Grid, message_ids: Sequence[str]) -> list[Announcement]:
        looks.append(set(message_ids))
        return announced(grid, message_ids[:1]) if len(looks) == 3 else []

    # what was asked for is seen nowhere else
    monkeypatch.setattr("strategies.arrivals.wall.announced", look)
    arrivals = WallArrivals(nodes(dict.fromkeys(range(50), 0.0)), pullers=2, poll_s=0.001)
    assert len(run(arrivals, [order(i) for i in range(50)], Counting(quota=1, deadline_s=30))) == 1
    arrivals.close()
    assert looks[0] == looks[1] == looks[2] and len(looks[0]) == 50


def test_a_second_reply_to_the_same_message_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(grid: Grid, message_ids: Sequence[str]) -> list[Announcement]:
        return [*announced(grid, message_ids), *announced(grid, message_ids), Announcement("nobody's")]

    # a SuperLink that says the same twice; the Grid of the tests does not
    monkeypatch.setattr("strategies.arrivals.wall.announced", twice)
    arrivals = WallArrivals(nodes({0: 0.0, 1: 0.0}), poll_s=0.001)
    assert sorted(run(arrivals, [order(0), order(1)], Counting(quota=3, deadline_s=0.5))) == [0, 1]
    assert not arrivals.busy()
    arrivals.close()


def test_refill_works_in_real_time_too() -> None:
    arrivals = WallArrivals(nodes({0: 0.0, 1: 0.0}), poll_s=0.01)
    more = iter([[order(1)], []])
    assert run(arrivals, [order(0)], Counting(quota=3, deadline_s=0.5, refill=lambda: next(more))) == [0, 1]
    arrivals.close()


def test_errors_and_unsendable_messages_are_mapped_to_their_nodes() -> None:
    grid = nodes({0: 0.0, 1: 0.0, 2: 0.0})
    grid.nodes[0] = lambda message: Error(code=2, reason="boom")
    grid.refuses_to_send = {1}
    arrivals = WallArrivals(grid, poll_s=0.01)
    seen = {}
    for reply in arrivals.send_and_receive([order(i) for i in range(3)]):
        seen[arrivals.flight(reply).node_id] = reply.has_error()
    assert seen == {0: True, 1: True, 2: False}
    arrivals.close()


def test_the_server_times_the_whole_round_trip() -> None:
    arrivals = WallArrivals(nodes({0: 0.1}), poll_s=0.01)
    (reply,) = list(arrivals.send_and_receive([order(0)]))
    timing = wire.numbers(reply.content, wire.TIMING)
    assert 0 <= timing[wire.SENT_S] < timing[wire.ARRIVED_S] <= arrivals.now_s
    assert timing[wire.BYTES_UP] > 0
    arrivals.close()


def test_a_superlink_that_fails_for_a_while_loses_nobody() -> None:
    class Flaky(NodeGrid):
        failures = 3

        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            if self.failures:
                self.failures -= 1
                raise ConnectionError("restarting")
            return super().pull_messages(message_ids)

    grid = Flaky({0: lambda message: reply_with(np.zeros(8, np.float32))})
    arrivals = WallArrivals(grid, poll_s=0.01)
    assert run(arrivals, [order(0)]) == [0]
    arrivals.close()


def test_a_node_that_never_answers_is_given_up_after_its_ttl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("strategies.arrivals.wall.GRACE_S", 0.0)
    arrivals = WallArrivals(nodes({0: 3600.0}), poll_s=0.01)
    (reply,) = list(arrivals.send_and_receive([order(0, ttl=0.1)]))
    assert reply.has_error()
    arrivals.close()


def test_no_more_replies_are_held_than_there_are_pullers() -> None:
    pulled = threading.Semaphore(0)

    class Counting(NodeGrid):
        count = 0

        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            found = super().pull_messages(message_ids)
            self.count += len(found)
            for _ in found:
                pulled.release()
            return found

    grid = Counting({i: lambda message: reply_with(np.zeros(8, np.float32)) for i in range(6)})
    arrivals = WallArrivals(grid, pullers=2, poll_s=0.001)
    replies = arrivals.send_and_receive([order(i) for i in range(6)])
    next(replies)
    for _ in range(2):
        assert pulled.acquire(timeout=10)
    time.sleep(0.1)
    assert grid.count <= 3  # the one being looked at counts as held until the next is asked for
    assert len(list(replies)) == 5
    arrivals.close()


def test_who_does_not_answer_a_question_is_left_out() -> None:
    grid = NodeGrid({0: Trainer(0), 1: Trainer(1)}, delays={1: 60.0})
    arrivals = WallArrivals(grid)
    queries = [Message(RecordDict(), dst_node_id=i, message_type="query") for i in (0, 1)]
    assert [node for node, _ in arrivals.ask(queries, timeout_s=0.05)] == [0]
