"""The virtual clock: event order, quota, deadline, refill, time-outs, and what is saved of it."""

from __future__ import annotations

import json
from collections.abc import Iterable

import numpy as np
import pytest
from flwr.app import Error, Message, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from strategy_grid import Counting, Links, NodeGrid, Trainer, reply_with, work

from strategies import wire
from strategies.arrivals import VirtualArrivals


def nodes(count: int) -> NodeGrid:
    return NodeGrid({i: lambda message: reply_with(np.zeros(8, np.float32), samples=0) for i in range(count)})


def order(node: int, *, ttl: float = 1e6) -> Message:
    return Message(RecordDict(), dst_node_id=node, message_type="train", ttl=ttl)


def run(arrivals: VirtualArrivals, batch: Iterable[Message], terms: Counting | None = None) -> list[tuple[float, int]]:
    arrivals.terms = terms and terms.terms()
    seen = []
    for reply in arrivals.send_and_receive(batch):
        seen.append((arrivals.now_s, arrivals.flight(reply).node_id))
        if terms is not None:
            terms.take(reply)
    return seen


@given(st.lists(st.floats(0.1, 1e4), min_size=1, max_size=12))
def test_replies_come_in_the_order_of_their_journeys_and_the_clock_shows_each(seconds: list[float]) -> None:
    arrivals = VirtualArrivals(nodes(len(seconds)), Links(lambda node, sent_s: seconds[node]))
    seen = run(arrivals, [order(i) for i in range(len(seconds))])
    assert [t for t, _ in seen] == pytest.approx(sorted(seconds))
    assert [seconds[node] for _, node in seen] == sorted(seconds)
    assert not arrivals.busy()


def test_ties_are_broken_by_dispatch_order() -> None:
    arrivals = VirtualArrivals(nodes(5), Links(lambda node, sent_s: 1.0))
    assert [node for _, node in run(arrivals, [order(i) for i in (3, 1, 4, 0, 2)])] == [3, 1, 4, 0, 2]


def test_the_quota_ends_a_round_and_the_rest_arrives_in_the_next() -> None:
    arrivals = VirtualArrivals(nodes(3), Links(lambda node, sent_s: 1.0 + node))
    assert run(arrivals, [order(i) for i in range(3)], Counting(quota=2, deadline_s=99)) == [(1.0, 0), (2.0, 1)]
    assert arrivals.busy() == {2}
    assert run(arrivals, [order(0)], Counting(quota=2, deadline_s=99)) == [(3.0, 2), (3.0, 0)]
    assert not arrivals.busy()


def test_the_deadline_ends_a_round_at_its_very_second() -> None:
    arrivals = VirtualArrivals(nodes(2), Links(lambda node, sent_s: (1.0, 10.0)[node]))
    assert run(arrivals, [order(0), order(1)], Counting(quota=2, deadline_s=4.0)) == [(1.0, 0)]
    assert arrivals.now_s == 4.0
    assert run(arrivals, [], Counting(quota=1, deadline_s=99.0)) == [(10.0, 1)]


def test_a_round_whose_replies_are_all_in_ends_before_its_deadline() -> None:
    arrivals = VirtualArrivals(nodes(1), Links(lambda node, sent_s: 1.0))
    run(arrivals, [order(0)], Counting(quota=5, deadline_s=100.0))
    assert arrivals.now_s == 1.0


def test_refill_sets_nodes_to_work_at_the_moment_another_answers() -> None:
    arrivals = VirtualArrivals(nodes(3), Links(lambda node, sent_s: (1.0, 5.0, 1.0)[node]))
    asked: list[float] = []

    def refill() -> list[Message]:
        asked.append(arrivals.now_s)
        return [order(2)] if len(asked) == 1 else []

    seen = run(arrivals, [order(0), order(1)], Counting(quota=3, deadline_s=99, refill=refill))
    assert seen == [(1.0, 0), (2.0, 2), (5.0, 1)]
    assert asked == [1.0, 2.0, 5.0]


def test_an_error_is_mapped_to_the_node_it_stands_for() -> None:
    grid = nodes(3)
    grid.nodes[0] = lambda message: Error(code=2, reason="boom")
    arrivals = VirtualArrivals(grid, Links(lambda node, sent_s: 1.0 + node))
    replies = []
    for reply in arrivals.send_and_receive([order(i) for i in range(2)]):
        replies.append((reply.has_error(), arrivals.flight(reply).node_id, reply.metadata.src_node_id))
    assert replies == [(True, 0, 1), (False, 1, 1)]


def test_a_dropped_reply_becomes_an_error_of_its_node() -> None:
    links = Links(lambda node, sent_s: 2.0, drops=lambda node, sent_s: node == 1)
    arrivals = VirtualArrivals(nodes(2), links)
    errors = {arrivals.flight(r).node_id: r.has_error() for r in arrivals.send_and_receive([order(0), order(1)])}
    assert errors == {0: False, 1: True}


def test_a_message_that_outlives_its_ttl_is_answered_by_an_error_when_that_has_passed() -> None:
    arrivals = VirtualArrivals(nodes(1), Links(lambda node, sent_s: 500.0))
    (reply,) = list(arrivals.send_and_receive([order(0, ttl=60.0)]))
    assert reply.has_error() and arrivals.now_s == 60.0


def test_no_virtual_time_out_ends_the_real_work_of_a_simulated_node() -> None:
    grid = nodes(1)
    grid.delays = {0: 0.2}  # of wall time, over a link that takes 0.01 s of virtual time
    arrivals = VirtualArrivals(grid, Links(lambda node, sent_s: 0.01))
    (reply,) = list(arrivals.send_and_receive([order(0, ttl=0.1)]))
    assert not reply.has_error() and arrivals.now_s == pytest.approx(0.01)


def test_a_simulated_node_that_is_slow_to_say_who_it_is_is_waited_for() -> None:
    grid = NodeGrid({0: Trainer(0), 1: Trainer(1)}, delays={1: 0.2})
    arrivals = VirtualArrivals(grid, Links(lambda node, sent_s: 1.0))
    queries = [Message(RecordDict(), dst_node_id=node, message_type="query", ttl=0.1) for node in (0, 1)]
    answers = list(arrivals.ask(queries, timeout_s=0.0))
    assert [(node, reply.has_content()) for node, reply in answers] == [(0, True), (1, True)]
    assert arrivals.now_s == 0.0


def test_a_message_that_cannot_be_sent_comes_back_as_an_error_at_once() -> None:
    grid = nodes(2)
    grid.refuses_to_send = {0}
    arrivals = VirtualArrivals(grid, Links(lambda node, sent_s: 3.0))
    batch = [order(0), order(1)]
    seen = [(arrivals.now_s, arrivals.flight(r).node_id, r.has_error()) for r in arrivals.send_and_receive(batch)]
    assert seen == [(0.0, 0, True), (3.0, 1, False)]


def test_the_servers_timing_overwrites_what_a_node_claims_of_it() -> None:
    from flwr.app import MetricRecord

    lying = reply_with(np.zeros(8, np.float32), samples=0)
    lying[wire.TIMING] = MetricRecord({wire.UPLOAD_S: 1e-9, wire.ARRIVED_S: -5.0})
    arrivals = VirtualArrivals(NodeGrid({0: lambda message: lying}), Links(lambda node, sent_s: 10.0))
    (reply,) = list(arrivals.send_and_receive([order(0)]))
    timing = wire.numbers(reply.content, wire.TIMING)
    assert timing[wire.UPLOAD_S] == pytest.approx(5.0) and timing[wire.ARRIVED_S] == 10.0


def test_no_claim_of_samples_moves_an_arrival_into_the_past_or_beyond_the_work_that_was_asked_for() -> None:
    for claimed, expected_s in ((-1e9, 1.0), (1e9, 1.0 + 0.5), (float("nan"), 1.0)):
        grid = NodeGrid({0: lambda m, claimed=claimed: reply_with(np.zeros(8, np.float32), samples=claimed)})
        arrivals = VirtualArrivals(grid, Links(lambda node, sent_s: 1.0))
        list(arrivals.send_and_receive([work(0, local_steps=50, batch_size=10)]))
        assert arrivals.now_s == pytest.approx(expected_s)


def test_asking_beside_the_rounds_touches_neither_the_clock_nor_what_is_in_flight() -> None:
    grid = NodeGrid({i: Trainer(i) for i in range(3)})
    grid.nodes[0] = lambda message: reply_with(np.zeros(8, np.float32), samples=0)
    arrivals = VirtualArrivals(grid, Links(lambda node, sent_s: 7.0))
    assert run(arrivals, [order(0)], Counting(quota=1, deadline_s=1.0)) == []
    queries = [Message(RecordDict(), dst_node_id=i, message_type="query") for i in (2, 1)]
    answers = [
        (node, wire.numbers(r.content, wire.HELLO)[wire.PARTITION]) for node, r in arrivals.ask(queries, timeout_s=5)
    ]
    assert answers == [(2, 2.0), (1, 1.0)]
    assert arrivals.now_s == 1.0 and arrivals.busy() == {0}
    assert run(arrivals, [], Counting(quota=1, deadline_s=99)) == [(pytest.approx(7.0), 0)]


def test_cancelling_frees_everybody_and_forgets_what_they_would_have_said() -> None:
    arrivals = VirtualArrivals(nodes(3), Links(lambda node, sent_s: 1.0 + node))
    run(arrivals, [work(i, number=10 + i) for i in range(3)], Counting(quota=1, deadline_s=99))
    assert arrivals.cancel() == {11, 12}
    assert run(arrivals, [], Counting(quota=1, deadline_s=99)) == [] and not arrivals.busy()


def test_a_saved_clock_goes_on_as_if_it_had_never_stopped() -> None:
    grid, links = nodes(4), Links(lambda node, sent_s: 1.0 + node)
    whole, first = VirtualArrivals(grid, links), VirtualArrivals(grid, links)
    for arrivals in (whole, first):
        run(arrivals, [work(i, number=i) for i in range(4)], Counting(quota=1, deadline_s=99))
    state, replies = first.state()
    second = VirtualArrivals(grid, links)
    second.restore(json.loads(json.dumps(state)), replies)
    assert second.busy() == whole.busy() == {1, 2, 3}
    for arrivals in (whole, second):
        arrivals.terms = None
    ours, theirs = ([(a.now_s, a.flight(r).order, r.content) for r in a.send_and_receive([])] for a in (whole, second))
    assert [(t, p) for t, p, _ in ours] == [(t, p) for t, p, _ in theirs]
    assert [c.object_id for *_, c in ours] == [c.object_id for *_, c in theirs]
