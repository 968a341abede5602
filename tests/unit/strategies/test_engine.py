"""Whole runs through Flower's own loop, on a virtual clock, with nodes that are plain functions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from strategy_grid import LAYOUT, Links, NodeGrid, Trainer, reply_with
from strategy_runs import SLOW_BY_FIVE, Diary, build, play, trainers

from strategies import wire
from strategies.arrivals import VirtualArrivals, WallArrivals
from strategies.engine import Engine
from strategies.errors import NoNodes, Reason, UnknownPolicy
from strategies.lineup import strategy
from strategies.model.layout import Layout
from strategies.model.payload import RawPayload
from strategies.model.server_optimizer import ServerOptimizer
from strategies.outcome import RoundOutcome
from strategies.selection import POLICIES
from strategies.settings import Settings


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_trains_and_never_sets_more_than_thirteen_tenths_of_the_cohort_to_work(
    name: str, mode: str
) -> None:
    class Watched(VirtualArrivals):
        most = 0

        def _push(self, *args: Any) -> Any:
            pushed = super()._push(*args)
            self.most = max(self.most, len(self.busy()))
            return pushed

    grid = trainers(20)
    engine, diary = build(name, mode=mode, cohort=10, quota=0.8)
    arrivals = Watched(grid, SLOW_BY_FIVE)
    play(engine, arrivals, 12)
    assert arrivals.most <= 13
    assert [outcome.round for outcome in diary.rounds] == list(range(1, 13))
    assert engine.model.version >= 8 and not diary.reasons
    for outcome in diary.rounds:
        assert sum(accepted.weight for accepted in outcome.accepted) == pytest.approx(1.0 if outcome.accepted else 0.0)
    targets = [np.random.default_rng(i).standard_normal(LAYOUT.size) for i in range(20)]
    # nobody's optimum is everybody's, but between them all there is a better place than the start
    assert min(np.linalg.norm(o.average_P - t) / np.linalg.norm(t) for o in diary.rounds for t in targets) < 0.9


def test_a_seed_makes_a_run_and_node_ids_do_not_matter() -> None:
    def models(offset: int) -> list[bytes]:
        grid = NodeGrid({offset + 13 * ((5 * i) % 20): Trainer(i, examples=32 * (1 + i % 4)) for i in range(20)})
        partition = {node: trainer.partition for node, trainer in grid.nodes.items()}
        links = Links(lambda node, sent_s: 1.0 + (partition[node] % 5) ** 2)
        engine, diary = build(seed=4)
        play(engine, VirtualArrivals(grid, links), 10)
        return [outcome.model_hash for outcome in diary.rounds]

    assert models(100) == models(5000)


def test_peers_get_one_codec_the_baselines_steps_and_weights_by_examples() -> None:
    grid = trainers(10)
    engine, diary = build("random", mode="sync", batch_size=16, examples="claimed")
    play(engine, VirtualArrivals(grid, SLOW_BY_FIVE), 3)
    for outcome in diary.rounds:
        assert len(outcome.accepted) == 5
        for accepted in outcome.accepted:
            assert accepted.steps == accepted.examples // 16
            total = sum(other.examples for other in outcome.accepted)
            assert accepted.weight == pytest.approx(accepted.examples / total)


def test_pyramid_gives_early_finishers_more_local_work_in_a_real_run() -> None:
    grid = trainers(20)
    engine, diary = build("pyramid", mode="sync", cohort=10, batch_size=16)
    play(engine, VirtualArrivals(grid, Links(lambda node, sent_s: 1.0 + (node % 5) ** 2, sample_s=0.01)), 8)
    ratios = [a.steps * 16 / a.examples for o in diary.rounds[3:] for a in o.accepted]
    assert max(ratios) > 3 and min(ratios) == 1


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_asks_for_the_passes_or_steps_that_the_user_wants_and_no_others(name: str) -> None:
    for asked, expected in (
        ({"epochs": 3}, lambda node: 3 * node.examples // 16),
        ({"local_steps": 7}, lambda node: 7),
    ):
        grid = trainers(12)
        engine, diary = build(name, mode="sync", batch_size=16, **asked)
        play(engine, VirtualArrivals(grid, SLOW_BY_FIVE), 6)
        given = [(node, order) for node in grid.nodes.values() for order in node.orders]
        assert len(given) >= 6 and any(outcome.accepted for outcome in diary.rounds)
        assert all(order.local_steps == expected(node) for node, order in given)


@pytest.mark.parametrize(("name", "mode"), [("network_aware", "async"), ("overcommit", "sync"), ("random", "async")])
def test_a_round_tells_of_every_order_and_every_reply_what_it_was_and_what_it_cost(name: str, mode: str) -> None:
    grid = trainers(12)
    grid.nodes[1007] = lambda message, node=grid.nodes[1007]: (
        Error(code=2, reason="out of memory") if message.metadata.message_type == "train" else node(message)
    )
    engine, diary = build(name, mode=mode, quota=0.5)
    play(engine, VirtualArrivals(grid, SLOW_BY_FIVE), 8)
    answered = 0
    for outcome in diary.rounds:
        assert [ordered.row for ordered in outcome.ordered] == list(outcome.selected)
        assert sum(ordered.bytes_down for ordered in outcome.ordered) == outcome.bytes_down
        replies = [*outcome.accepted, *outcome.refused]
        assert sum(reply.journey.bytes_up for reply in replies) >= outcome.bytes_up
        for reply in outcome.accepted:
            journey = reply.journey
            assert (journey.round, journey.steps, journey.metrics) == (reply.round, reply.steps, reply.metrics)
            parts = (journey.download_s, journey.compute_s, journey.upload_s)
            assert all(part is not None and 0 < part < journey.total_s for part in parts)
        assert {ordered.row for ordered in outcome.ordered} >= {
            r.row for r in replies if r.journey.round == outcome.round
        }
        answered += len(replies) + len(outcome.dropped)
    assert 0 <= sum(len(outcome.ordered) for outcome in diary.rounds) - answered <= 6
    assert Reason.ERROR_REPLY in diary.reasons


def test_an_overcommitted_peer_drops_what_comes_late_and_ours_keeps_it() -> None:
    for name, late in (("overcommit", False), ("network_aware", True)):
        engine, diary = build(name, mode="sync", quota=0.6, deadline_s=1000.0)
        play(engine, VirtualArrivals(trainers(20), SLOW_BY_FIVE), 12)
        assert (sum(outcome.late for outcome in diary.rounds) > 0) == late


def test_late_updates_are_discounted_by_their_staleness() -> None:
    engine, diary = build(mode="async", cohort=6, quota=0.5)
    play(engine, VirtualArrivals(trainers(12), SLOW_BY_FIVE), 30)
    stale = [a for o in diary.rounds for a in o.accepted if a.staleness > 0]
    assert stale and all(a.base + a.staleness <= engine.model.version for a in stale)


def test_a_base_the_server_no_longer_keeps_is_refused_with_that_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("strategies.round.versions.KEPT_VERSIONS", 2)
    grid = trainers(8)
    links = Links(lambda node, sent_s: 30.0 if node == 1000 else 1.0)
    engine, diary = build(mode="async", cohort=3, quota=0.4, deadline_s=100.0)
    play(engine, VirtualArrivals(grid, links), 60)
    assert Reason.UNKNOWN_BASE in diary.reasons


@pytest.mark.parametrize("code", [5, wire.LEAVING])
def test_a_node_that_leaves_is_not_asked_again_in_the_round_and_has_missed_nothing(code: int) -> None:
    grid = trainers(5)
    trainer, asked = grid.nodes[1000], list[int]()

    def leaving(message: Message) -> RecordDict | Error:
        if message.metadata.message_type == "query":
            return trainer(message)
        asked.append(int(message.content.config_records[wire.ORDER][wire.ROUND]))
        return Error(code=code, reason="it goes") if asked[-1] == 2 else trainer(message)

    grid.nodes[1000] = leaving
    engine, diary = build(mode="async", cohort=5, quota=1.0)
    play(engine, VirtualArrivals(grid, SLOW_BY_FIVE), 4)
    assert asked.count(2) == 1 and asked[-1] > 2
    assert diary.reasons == [Reason.LEFT]
    row = engine.roster.rows[1000]
    fleet = engine.state.fleet
    assert fleet.misses[row] == fleet.failures[row] == 0 and fleet.online[row]


def test_a_node_that_takes_work_only_to_leave_with_it_is_left_alone_after_the_third_time() -> None:
    grid = trainers(5)
    trainer, orders = grid.nodes[1000], list[Message]()

    def leaving(message: Message) -> RecordDict | Error:
        if message.metadata.message_type == "query":
            return trainer(message)
        orders.append(message)
        return Error(code=wire.LEAVING, reason="it goes")

    grid.nodes[1000] = leaving
    engine, diary = build(mode="async", cohort=5, quota=1.0)
    play(engine, VirtualArrivals(grid, SLOW_BY_FIVE), 9)
    assert len(orders) == 3 and diary.reasons == [Reason.LEFT] * 3
    assert engine.model.version == 9


def test_an_unknown_codec_level_is_refused_before_the_run() -> None:
    with pytest.raises(UnknownPolicy, match="no codec level 'gzip'; there are raw"):
        build(codec="gzip")


def test_without_nodes_there_is_nothing_to_train_on() -> None:
    engine, _ = build()
    with pytest.raises(NoNodes, match="start SuperNodes"):
        play(engine, VirtualArrivals(NodeGrid({}), SLOW_BY_FIVE), 1)


def test_another_grid_is_refused() -> None:
    engine, _ = build()
    with pytest.raises(TypeError, match="strategies.arrivals"):
        engine.configure_train(1, ArrayRecord(), ConfigRecord(), trainers(1))


def test_a_bandwidth_that_falls_twentyfold_and_recovers_is_noticed_within_three_of_the_nodes_rounds() -> None:
    changes = {50: 20.0, 120: 1.0}
    factor = {"now": 1.0}
    grid = trainers(4)
    links = Links(lambda node, sent_s: 0.001 * (factor["now"] if node == 1000 else 1.0))
    engine, diary = build(cohort=4, mode="sync", quota=1.0, deadline_s=60.0)
    believed: dict[int, float] = {}

    def change(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        factor["now"] = changes.get(server_round, factor["now"])
        believed[server_round] = engine.state.fleet.links[0].uplink.bps if server_round else 0.0
        return None

    play(engine, VirtualArrivals(grid, links), 130, change)
    assert believed[53] == pytest.approx(believed[50] / 20, rel=0.5)
    assert believed[123] == pytest.approx(believed[120] * 20, rel=0.5)


def explode(after: int, factor: float) -> NodeGrid:
    """Nodes whose updates and losses run away once, all together."""
    grid = trainers(6)

    class Wild(Trainer):
        def __call__(self, message: Message) -> RecordDict:
            reply = super().__call__(message)
            if message.metadata.message_type == "train":
                model = np.frombuffer(message.content[wire.MODEL][wire.BLOB].numpy().tobytes(), "<f4")
                if np.abs(model).max() > 100:
                    return reply_with(np.ones(LAYOUT.size, np.float32) * self.partition, loss=1e9)
                if len(self.orders) == after:
                    return reply_with(np.full(LAYOUT.size, factor * (1 + self.partition), np.float32), loss=1.0)
            return reply

    grid.nodes = {node: Wild(i, examples=64) for i, node in enumerate(grid.nodes)}
    return grid


def test_the_last_good_model_is_put_back_when_the_loss_explodes() -> None:
    engine, diary = build(
        cohort=6,
        mode="sync",
        quota=1.0,
        deadline_s=100.0,
        optimizer=ServerOptimizer("fedavgm", 0.5, 0.5),
        refuse_outliers=False,  # let the bad updates through, as if they crept
    )

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        engine.evaluated(float(np.abs(engine.model.vector_P).mean() if server_round else 2.0))
        return None

    play(engine, VirtualArrivals(explode(12, 1e5), Links(lambda node, sent_s: 1.0)), 25, evaluate)
    rolled = [outcome for outcome in diary.rounds if outcome.rolled_back is not None]
    assert [(outcome.round, outcome.rolled_back) for outcome in rolled] == [(13, 11)]
    assert rolled[0].base_hash == diary.rounds[10].model_hash  # version 11, as round 11 left it
    assert np.abs(engine.model.vector_P).max() < 10 and engine.model.version == 25 + 1


def test_an_exploded_evaluation_rolls_back_before_the_next_round() -> None:
    engine, diary = build(cohort=4, mode="sync")

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        if server_round:
            engine.evaluated(float("nan") if server_round == 7 else 1.0)
        return None

    play(engine, VirtualArrivals(trainers(6), SLOW_BY_FIVE), 9, evaluate)
    before = {outcome.round: outcome for outcome in diary.rounds}
    assert before[8].rolled_back is not None and before[8].base_hash == before[6].model_hash


def test_a_step_out_of_the_finite_numbers_is_undone() -> None:
    class Huge(Trainer):
        def __call__(self, message: Message) -> RecordDict:
            if message.metadata.message_type == "query":
                return super().__call__(message)
            return reply_with(np.full(LAYOUT.size, 1e30 * (1 + self.partition), np.float32))

    huge = NodeGrid({i: Huge(i) for i in range(3)})
    engine, diary = build(cohort=3, mode="sync", quota=1.0, deadline_s=100.0, refuse_outliers=False)
    play(engine, VirtualArrivals(huge, Links(lambda node, sent_s: 1.0)), 2)
    assert diary.rounds[0].rolled_back == 0 and not engine.model.vector_P.any()


def saved(engine: Engine, arrivals: VirtualArrivals) -> Any:
    document, vectors = engine.saved()
    clock, replies = arrivals.state()
    return json.loads(json.dumps([document, clock])), {n: v.copy() for n, v in vectors.items()}, replies


@pytest.mark.parametrize(
    ("name", "mode", "optimizer"),
    [
        ("network_aware", "async", "fedadam"),
        ("network_aware", "sync", "fedyogi"),
        ("oort", "sync", "fedavgm"),
        ("pyramid", "sync", "fedavg"),
        ("tifl", "sync", "fedavg"),
        ("random", "async", "fedavg"),
    ],
)
@pytest.mark.no_cover
@pytest.mark.parametrize("stop", [1, 9, 23])
def test_a_run_resumed_after_any_round_continues_exactly_as_the_uninterrupted_one(
    name: str, mode: str, optimizer: Any, stop: int
) -> None:
    def fresh() -> tuple[Engine, Diary]:
        return build(name, mode=mode, optimizer=ServerOptimizer(optimizer, 0.3), seed=9)

    links = Links(lambda n, t: 1.0 + (n % 5) ** 2 + np.sin(t), drops=lambda n, t: (n + int(10 * t)) % 11 == 0)
    whole, expected = fresh()
    play(whole, VirtualArrivals(trainers(16), links), 30)

    first, start = fresh()
    arrivals = VirtualArrivals(trainers(16), links)
    play(first, arrivals, stop)
    (document, clock), vectors, replies = saved(first, arrivals)

    second, rest = fresh()
    resumed = VirtualArrivals(trainers(16), links)
    resumed.restore(clock, replies)
    second.restore(document, vectors, now_s=resumed.now_s, in_flight=True)
    play(second, resumed, 30 - stop)

    def story(rounds: Sequence[RoundOutcome]) -> list[Any]:
        return [
            (o.round, o.ended_s, o.selected, o.model_hash, [(a.node, a.base, a.weight) for a in o.accepted], o.refused)
            for o in rounds
        ]

    assert story(start.rounds + rest.rounds) == story(expected.rounds)
    assert second.state.json() == whole.state.json()


def test_a_run_resumed_without_what_was_in_flight_frees_those_nodes() -> None:
    engine, _ = build(mode="async")
    arrivals = VirtualArrivals(trainers(10), SLOW_BY_FIVE)
    play(engine, arrivals, 5)
    assert engine.state.fleet.at_work.any()
    (document, _), vectors, _ = saved(engine, arrivals)
    again, diary = build(mode="async")
    again.restore(document, vectors, now_s=0.0, in_flight=False)
    assert not again.state.fleet.at_work.any()
    play(again, VirtualArrivals(trainers(10), SLOW_BY_FIVE), 3)
    assert [outcome.round for outcome in diary.rounds] == [6, 7, 8]


def test_integer_buffers_travel_beside_the_model_and_back() -> None:
    layout = Layout.of({"w": np.zeros(3, np.float32), "seen": np.array(4)})
    engine = strategy(
        "random", layout=layout, payload=RawPayload(layout), optimizer=ServerOptimizer(), settings=Settings(cohort=1)
    )
    engine.set_model({"w": np.ones(3, np.float32), "seen": np.array(4)})
    document, vectors = engine.saved()
    again = strategy(
        "random", layout=layout, payload=RawPayload(layout), optimizer=ServerOptimizer(), settings=Settings(cohort=1)
    )
    again.restore(json.loads(json.dumps(document)), vectors, now_s=0.0, in_flight=False)
    assert int(again.arrays()["seen"].numpy()) == 4 and again.model.hash == engine.model.hash


def test_a_run_on_the_wall_clock() -> None:
    grid = trainers(6)
    grid.delays = {node: 0.02 * (i % 3) for i, node in enumerate(grid.nodes)}
    engine, diary = build(cohort=4, mode="async")
    arrivals = WallArrivals(grid, poll_s=0.005)
    play(engine, arrivals, 5)
    arrivals.close()
    assert engine.model.version == 5 and not diary.reasons
    assert all(outcome.ended_s >= outcome.started_s for outcome in diary.rounds)
