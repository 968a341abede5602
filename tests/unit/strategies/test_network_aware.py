"""Whole runs through Flower's own loop, on a virtual clock, with nodes that are plain functions."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from strategy_grid import LAYOUT, START, Links, NodeGrid, Trainer, reply_with

from strategies import wire
from strategies.arrivals import VirtualArrivals, WallArrivals
from strategies.errors import NoNodes, Reason, Refused, UnknownPolicy
from strategies.layout import Layout
from strategies.lineup import strategy
from strategies.network_aware import NetworkAware, RoundHook, RoundOutcome
from strategies.payload import RawPayload
from strategies.selection import POLICIES
from strategies.server_optimizer import ServerOptimizer
from strategies.settings import Settings


class Diary(RoundHook):
    """A hook that keeps every round."""

    def __init__(self) -> None:
        self.rounds: list[RoundOutcome] = []
        self.refuse: Callable[[int], bool] = lambda node_id: False

    def admit(self, flight: Any, reply: Message, blob: bytes) -> None:
        if self.refuse(flight.node_id):
            raise Refused(Reason.NOT_ALLOWED, "not on the list")

    def accepted(self, flight: Any, reply: Message, update: Any, model_P: Any) -> None:
        assert update.size == model_P.size == LAYOUT.size

    def closed(self, outcome: RoundOutcome) -> None:
        self.rounds.append(outcome)

    @property
    def reasons(self) -> list[Reason]:
        return [refused.reason for outcome in self.rounds for refused in outcome.refused]


def trainers(count: int) -> NodeGrid:
    return NodeGrid({1000 + 7 * i: Trainer(i, examples=32 * (1 + i % 4)) for i in range(count)})


def build(name: str = "network_aware", **settings: Any) -> tuple[NetworkAware, Diary]:
    diary = Diary()
    optimizer = settings.pop("optimizer", ServerOptimizer())
    chosen = Settings(**{"cohort": 5, **settings})
    built = strategy(
        name, layout=LAYOUT, payload=RawPayload(LAYOUT), optimizer=optimizer, settings=chosen, hooks=[diary]
    )
    return built, diary


def play(engine: NetworkAware, arrivals: Any, rounds: int, evaluate: Any = None) -> None:
    Strategy.start(
        engine,
        arrivals,
        ArrayRecord({name: Array(array) for name, array in START.items()}),
        num_rounds=rounds,
        evaluate_fn=evaluate,
    )


SLOW_BY_FIVE = Links(lambda node, sent_s: 1.0 + (node % 5) ** 2)


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
    assert engine.version >= 8 and not diary.reasons
    for outcome in diary.rounds:
        assert sum(accepted.weight for accepted in outcome.accepted) == pytest.approx(1.0 if outcome.accepted else 0.0)
    targets = [np.random.default_rng(i).standard_normal(LAYOUT.size) for i in range(20)]
    # nobody's optimum is everybody's, but between them all there is a better place than the start
    assert min(np.linalg.norm(o.average_P - t) / np.linalg.norm(t) for o in diary.rounds for t in targets) < 0.9


def test_a_seed_makes_a_run_and_node_ids_do_not_matter() -> None:
    def models(offset: int) -> list[bytes]:
        grid = NodeGrid({offset + 13 * ((5 * i) % 20): Trainer(i, examples=32 * (1 + i % 4)) for i in range(20)})
        partition = {node: trainer.partition for node, trainer in grid.nodes.items()}  # type: ignore[attr-defined]
        links = Links(lambda node, sent_s: 1.0 + (partition[node] % 5) ** 2)
        engine, diary = build(seed=4)
        play(engine, VirtualArrivals(grid, links), 10)
        return [outcome.model_hash for outcome in diary.rounds]

    assert models(100) == models(5000)


def test_peers_get_one_codec_the_baselines_steps_and_weights_by_examples() -> None:
    grid = trainers(10)
    engine, diary = build("random", mode="sync", batch_size=16)
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


def test_an_overcommitted_peer_drops_what_comes_late_and_ours_keeps_it() -> None:
    for name, late in (("overcommit", False), ("network_aware", True)):
        engine, diary = build(name, mode="sync", quota=0.6, deadline_s=1000.0)
        play(engine, VirtualArrivals(trainers(20), SLOW_BY_FIVE), 12)
        assert (sum(outcome.late for outcome in diary.rounds) > 0) == late


def test_late_updates_are_discounted_by_their_staleness() -> None:
    engine, diary = build(mode="async", cohort=6, quota=0.5)
    play(engine, VirtualArrivals(trainers(12), SLOW_BY_FIVE), 30)
    stale = [a for o in diary.rounds for a in o.accepted if a.staleness > 0]
    assert stale and all(a.base + a.staleness <= engine.version for a in stale)


def test_a_base_the_server_no_longer_keeps_is_refused_with_that_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("strategies.global_model.KEPT_VERSIONS", 2)
    grid = trainers(8)
    links = Links(lambda node, sent_s: 30.0 if node == 1000 else 1.0)
    engine, diary = build(mode="async", cohort=3, quota=0.4, deadline_s=100.0)
    play(engine, VirtualArrivals(grid, links), 60)
    assert Reason.UNKNOWN_BASE in diary.reasons


def test_an_unknown_codec_level_is_refused_before_the_run() -> None:
    with pytest.raises(UnknownPolicy, match="no codec level 'gzip'; there are raw"):
        build(codec="gzip")


def test_without_nodes_there_is_nothing_to_train_on() -> None:
    engine, _ = build()
    with pytest.raises(NoNodes, match="start SuperNodes"):
        play(engine, VirtualArrivals(NodeGrid({}), SLOW_BY_FIVE), 1)


@pytest.mark.parametrize("shut_out", [False, True])
def test_a_run_whose_nodes_are_all_gone_or_shut_out_goes_on_when_one_is_back(
    monkeypatch: pytest.MonkeyPatch, shut_out: bool
) -> None:
    monkeypatch.setattr("strategies.flight.LOOK_AGAIN_S", 0.01)
    grid = trainers(6)
    engine, diary = build(cohort=3, mode="sync")
    looks = 0

    def outage(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        if server_round == 2 and shut_out:
            engine.roster.excluded.update(grid.online)
        elif server_round == 2:
            grid.online.clear()
        return None

    class Back(VirtualArrivals):
        def get_node_ids(self) -> Any:
            nonlocal looks
            looks += not grid.online
            if looks == 3:
                grid.online.add(1000)
            return super().get_node_ids()

    play(engine, Back(grid, SLOW_BY_FIVE), 4, outage)
    assert [outcome.round for outcome in diary.rounds] == [1, 2, 3, 4]
    assert diary.rounds[-1].accepted


def test_a_run_whose_nodes_stay_away_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("strategies.roster.OUTAGE_S", 0.05)
    monkeypatch.setattr("strategies.flight.LOOK_AGAIN_S", 0.01)
    grid = trainers(6)
    engine, diary = build(cohort=3)

    def outage(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        if server_round == 1:
            grid.online.clear()
        return None

    with pytest.raises(NoNodes):
        play(engine, VirtualArrivals(grid, SLOW_BY_FIVE), 4, outage)
    assert len(diary.rounds) == 1


def test_another_grid_is_refused() -> None:
    engine, _ = build()
    with pytest.raises(TypeError, match="strategies.arrivals"):
        engine.configure_train(1, ArrayRecord(), ConfigRecord(), trainers(1))


def test_nodes_that_vanish_are_left_out_and_taken_back_under_a_new_id_in_their_old_row() -> None:
    grid = trainers(6)
    engine, diary = build(cohort=3, mode="sync")
    arrivals = VirtualArrivals(grid, SLOW_BY_FIVE)
    gone = 1000

    def come_and_go(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        if server_round == 5:
            grid.online.discard(gone)
        if server_round == 15:
            grid.nodes[77] = grid.nodes.pop(gone)
            grid.online.add(77)
        return None

    play(engine, arrivals, 30, come_and_go)
    chosen = [{engine.fleet.names[row] for row in outcome.selected} for outcome in diary.rounds]
    assert not any("node-0" in names for names in chosen[5:15])
    assert any("node-0" in names for names in chosen[15:])
    assert len(engine.fleet) == 6 and engine.roster.rows[77] == engine.roster.rows[gone]


def test_nodes_that_join_late_are_enrolled_and_soon_chosen() -> None:
    grid = trainers(8)
    late = sorted(grid.online)[6:]
    grid.online -= set(late)
    engine, diary = build(cohort=4, mode="sync", deadline_s=60.0)
    play(engine, VirtualArrivals(grid, SLOW_BY_FIVE), 12, lambda r, a: grid.online.update(late) if r == 6 else None)
    assert len(engine.fleet) == 8
    assert {"node-6", "node-7"} <= {a.node for o in diary.rounds[6:9] for a in o.accepted}


def test_a_bandwidth_that_falls_twentyfold_and_recovers_is_noticed_within_three_of_the_nodes_rounds() -> None:
    changes = {50: 20.0, 120: 1.0}
    factor = {"now": 1.0}
    grid = trainers(4)
    links = Links(lambda node, sent_s: 0.001 * (factor["now"] if node == 1000 else 1.0))
    engine, diary = build(cohort=4, mode="sync", quota=1.0, deadline_s=60.0)
    believed: dict[int, float] = {}

    def change(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        factor["now"] = changes.get(server_round, factor["now"])
        believed[server_round] = engine.fleet.links[0].uplink_bps if server_round else 0.0
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
                model = np.frombuffer(message.content[wire.MODEL][wire.BLOB].numpy().tobytes(), "<f4")  # type: ignore[index,union-attr,call-overload]
                if np.abs(model).max() > 100:
                    return reply_with(np.ones(LAYOUT.size, np.float32) * self.partition, loss=1e9)
                if len(self.orders) == after:
                    return reply_with(np.full(LAYOUT.size, factor * (1 + self.partition), np.float32), loss=1.0)
            return reply

    grid.nodes = {node: Wild(i, examples=64) for i, node in enumerate(grid.nodes)}
    return grid


def test_the_last_good_model_is_put_back_when_the_loss_explodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("strategies.validation.LARGEST_Z", 1e9)  # let the bad updates through, as if they crept
    engine, diary = build(
        cohort=6, mode="sync", quota=1.0, deadline_s=100.0, optimizer=ServerOptimizer("fedavgm", 0.5, 0.5)
    )
    play(engine, VirtualArrivals(explode(12, 1e5), Links(lambda node, sent_s: 1.0)), 25)
    rolled = [outcome for outcome in diary.rounds if outcome.rolled_back is not None]
    assert [outcome.rolled_back for outcome in rolled] == [11]
    assert rolled[0].model_hash == diary.rounds[10].model_hash  # version 11, as round 11 left it
    assert np.abs(engine.model.vector_P).max() < 10 and engine.version == 24 + 1


def test_an_exploded_evaluation_rolls_back_before_the_next_round() -> None:
    engine, diary = build(cohort=4, mode="sync")

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        if server_round:
            engine.evaluated(float("nan") if server_round == 7 else 1.0)
        return None

    play(engine, VirtualArrivals(trainers(6), SLOW_BY_FIVE), 9, evaluate)
    before = {outcome.round: outcome for outcome in diary.rounds}
    assert before[8].rolled_back is not None and before[8].base_hash == before[6].model_hash


def test_a_step_out_of_the_finite_numbers_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("strategies.validation.COLD_FACTOR", 1e38)

    class Huge(Trainer):
        def __call__(self, message: Message) -> RecordDict:
            if message.metadata.message_type == "query":
                return super().__call__(message)
            return reply_with(np.full(LAYOUT.size, 1e30 * (1 + self.partition), np.float32))

    huge = NodeGrid({i: Huge(i) for i in range(3)})
    engine, diary = build(cohort=3, mode="sync", quota=1.0, deadline_s=100.0)
    play(engine, VirtualArrivals(huge, Links(lambda node, sent_s: 1.0)), 2)
    assert diary.rounds[0].rolled_back == 0 and not engine.model.vector_P.any()


def saved(engine: NetworkAware, arrivals: VirtualArrivals) -> Any:
    document, vectors = engine.state()
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
    def fresh() -> tuple[NetworkAware, Diary]:
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
    second.restore(document, vectors, next_round=stop + 1, in_flight=True)
    play(second, resumed, 30 - stop)

    def story(rounds: Sequence[RoundOutcome]) -> list[Any]:
        return [
            (o.round, o.ended_s, o.selected, o.model_hash, [(a.node, a.base, a.weight) for a in o.accepted], o.refused)
            for o in rounds
        ]

    assert story(start.rounds + rest.rounds) == story(expected.rounds)
    assert second.accounts.state() == whole.accounts.state()


def test_a_run_resumed_without_what_was_in_flight_frees_those_nodes() -> None:
    engine, _ = build(mode="async")
    arrivals = VirtualArrivals(trainers(10), SLOW_BY_FIVE)
    play(engine, arrivals, 5)
    assert engine.fleet.at_work.any()
    (document, _), vectors, _ = saved(engine, arrivals)
    again, diary = build(mode="async")
    again.restore(document, vectors, next_round=6, in_flight=False)
    assert not again.fleet.at_work.any()
    play(again, VirtualArrivals(trainers(10), SLOW_BY_FIVE), 3)
    assert [outcome.round for outcome in diary.rounds] == [6, 7, 8]


def test_integer_buffers_travel_beside_the_model_and_back() -> None:
    layout = Layout.of({"w": np.zeros(3, np.float32), "seen": np.array(4)})
    engine = strategy(
        "random", layout=layout, payload=RawPayload(layout), optimizer=ServerOptimizer(), settings=Settings(cohort=1)
    )
    engine.set_model({"w": np.ones(3, np.float32), "seen": np.array(4)})
    document, vectors = engine.state()
    again = strategy(
        "random", layout=layout, payload=RawPayload(layout), optimizer=ServerOptimizer(), settings=Settings(cohort=1)
    )
    again.restore(json.loads(json.dumps(document)), vectors, next_round=1, in_flight=False)
    assert int(again.arrays()["seen"].numpy()) == 4 and again.model.hash == engine.model.hash


def test_a_run_on_the_wall_clock() -> None:
    grid = trainers(6)
    grid.delays = {node: 0.02 * (i % 3) for i, node in enumerate(grid.nodes)}
    engine, diary = build(cohort=4, mode="async")
    arrivals = WallArrivals(grid, poll_s=0.005)
    play(engine, arrivals, 5)
    arrivals.close()
    assert engine.version == 5 and not diary.reasons
    assert all(outcome.ended_s >= outcome.started_s for outcome in diary.rounds)


def good() -> RecordDict:
    return reply_with(np.ones(LAYOUT.size, np.float32))


def with_blob(array: np.ndarray) -> RecordDict:
    return RecordDict({wire.UPDATE: ArrayRecord({wire.BLOB: Array(array)}), wire.METRICS: MetricRecord({})})


def with_arrays(**arrays: np.ndarray) -> RecordDict:
    return RecordDict({wire.UPDATE: ArrayRecord({name: Array(array) for name, array in arrays.items()})})


def raw_array(**changes: Any) -> RecordDict:
    array = Array(np.zeros(8, np.uint8))
    for name, value in changes.items():
        setattr(array, name, value)
    return RecordDict({wire.UPDATE: ArrayRecord({wire.BLOB: array})})


HOSTILE: dict[str, tuple[Callable[[], RecordDict | Error], Reason]] = {
    "an error": (lambda: Error(code=2, reason="x" * 10_000), Reason.ERROR_REPLY),
    "nothing": (RecordDict, Reason.MALFORMED),
    "an update that is metrics": (lambda: RecordDict({wire.UPDATE: MetricRecord({"a": 1.0})}), Reason.MALFORMED),
    "another array's name": (
        lambda: RecordDict({wire.UPDATE: ArrayRecord({"b": Array(np.zeros(1))})}),
        Reason.MALFORMED,
    ),
    "two arrays": (lambda: with_arrays(blob=np.zeros(8, np.uint8), c=np.zeros(1)), Reason.MALFORMED),
    "floats for bytes": (lambda: with_blob(np.zeros(LAYOUT.size, np.float32)), Reason.MALFORMED),
    "a matrix of bytes": (lambda: with_blob(np.zeros((4, 8), np.uint8)), Reason.MALFORMED),
    "an array that is none": (lambda: raw_array(data=b"not numpy at all"), Reason.MALFORMED),
    "an unknown serialiser": (lambda: raw_array(stype="pickle"), Reason.MALFORMED),
    "too few bytes": (lambda: with_blob(np.zeros(4 * LAYOUT.size - 1, np.uint8)), Reason.WRONG_MODEL),
    "too many bytes": (lambda: with_blob(np.zeros(200_000, np.uint8)), Reason.TOO_LARGE),
    "not a number": (lambda: reply_with(np.full(LAYOUT.size, np.nan, np.float32)), Reason.NON_FINITE),
    "infinity": (lambda: reply_with(np.full(LAYOUT.size, np.inf, np.float32)), Reason.NON_FINITE),
    "a giant at first": (lambda: reply_with(np.full(LAYOUT.size, 1e3, np.float32)), Reason.NORM_OUTLIER),
    "a giant": (lambda: reply_with(np.full(LAYOUT.size, 1e12, np.float32)), Reason.NORM_OUTLIER),
    "the same again": (good, Reason.DUPLICATE),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_reply_is_refused_with_its_reason_and_the_round_goes_on(case: str) -> None:
    answer, reason = HOSTILE[case]
    grid = trainers(6)
    honest = grid.nodes[1000]
    grid.nodes[1000] = lambda m: honest(m) if m.metadata.message_type == "query" else answer()
    engine, diary = build(cohort=6, mode="sync", quota=1.0, deadline_s=100.0)
    play(engine, VirtualArrivals(grid, Links(lambda node, sent_s: 1.0)), 6)
    assert reason in diary.reasons
    details = [refused.detail for outcome in diary.rounds for refused in outcome.refused]
    assert all(detail and len(detail) <= 600 for detail in details)
    assert {r.node for o in diary.rounds for r in o.refused} == {"node-0"}
    assert engine.version == 6 and all(len(outcome.accepted) >= 5 for outcome in diary.rounds)


def test_updates_of_unusual_length_count_where_nobody_is_suspected() -> None:
    answer, _ = HOSTILE["a giant at first"]
    grid = trainers(6)
    honest = grid.nodes[1000]
    grid.nodes[1000] = lambda m: honest(m) if m.metadata.message_type == "query" else answer()
    engine, diary = build(cohort=6, mode="sync", quota=1.0, deadline_s=100.0, refuse_outliers=False)
    play(engine, VirtualArrivals(grid, Links(lambda node, sent_s: 1.0)), 1)
    assert not diary.reasons and len(diary.rounds[0].accepted) == 6


def test_what_a_hook_does_not_admit_is_refused_and_recorded() -> None:
    engine, diary = build(cohort=4, mode="sync", quota=1.0)
    diary.refuse = lambda node_id: node_id == 1000
    play(engine, VirtualArrivals(trainers(4), Links(lambda node, sent_s: 1.0)), 3)
    assert diary.reasons and set(diary.reasons) == {Reason.NOT_ALLOWED}


junk = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True, width=64),
    st.integers(-(2**63), 2**63 - 1),
    st.lists(st.floats(allow_nan=True), max_size=3),
)
metric_keys = st.sampled_from(
    [
        wire.SAMPLES,
        wire.COMPUTE_S,
        wire.LOSS,
        wire.SQUARED_LOSS,
        wire.BYTES_UP,
        wire.UPLOAD_S,
        wire.RTT_S,
        wire.UPLINK_BPS,
        "x",
    ]
)


@st.composite
def replies(draw: st.DrawFn) -> RecordDict:
    records: dict[str, Any] = {}
    for name in draw(
        st.lists(st.sampled_from([wire.METRICS, wire.LINK, wire.TIMING, wire.HELLO, wire.CONTRIBUTION]), unique=True)
    ):
        if draw(st.booleans()):
            records[name] = MetricRecord(draw(st.dictionaries(metric_keys, junk, max_size=6)))
        else:
            records[name] = ConfigRecord({"k": draw(st.one_of(st.text(), st.binary(), st.booleans()))})
    kind = draw(st.sampled_from(["bytes", "floats", "none", "metrics"]))
    if kind == "bytes":
        records[wire.UPDATE] = ArrayRecord({wire.BLOB: Array(np.frombuffer(draw(st.binary(max_size=64)), np.uint8))})
    elif kind == "floats":
        values = draw(st.lists(st.floats(width=32), min_size=LAYOUT.size, max_size=LAYOUT.size))
        blob = np.frombuffer(np.asarray(values, "<f4").tobytes(), np.uint8)
        records[wire.UPDATE] = ArrayRecord({wire.BLOB: Array(blob)})
    elif kind == "metrics":
        records[wire.UPDATE] = MetricRecord({"a": 1.0})
    return RecordDict(records)


@hypothesis_settings(max_examples=25)
@given(answers=st.lists(replies(), min_size=4, max_size=4), greeting=replies(), mode=st.sampled_from(["sync", "async"]))
def test_no_reply_whatsoever_stops_a_live_round_or_poisons_what_is_known(
    answers: list[RecordDict], greeting: RecordDict, mode: str
) -> None:
    grid = trainers(5)
    honest = grid.nodes[1000]
    queue = list(answers)

    def hostile(message: Message) -> RecordDict:
        if message.metadata.message_type == "query":
            return honest(message)  # type: ignore[return-value]
        return queue.pop() if queue else good()

    grid.nodes[1000] = hostile
    grid.nodes[1] = lambda message: greeting  # one that cannot even introduce itself
    grid.online.add(1)
    engine, diary = build(cohort=5, mode=mode)
    play(engine, VirtualArrivals(grid, Links(lambda node, sent_s: 1.0)), 5)
    assert len(diary.rounds) == 5 and engine.version >= 3
    assert np.isfinite(engine.model.vector_P).all()
    fleet = engine.fleet
    for column in (fleet.sample_s, fleet.rtt_s, fleet.uplink_bps, fleet.downlink_bps, fleet.quality):
        assert (column > 0).all() and np.isfinite(column).all()
    json.dumps(engine.state()[0], allow_nan=False)
