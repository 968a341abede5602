"""Nodes that come late, vanish, return under another id, or are all gone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from strategy_grid import Trainer
from strategy_runs import SLOW_BY_FIVE, build, play, trainers

from strategies import wire
from strategies.arrivals import VirtualArrivals
from strategies.errors import NoNodes, Reason, Refused
from strategies.wire import Hello


@pytest.mark.parametrize("shut_out", [False, True])
def test_a_run_whose_nodes_are_all_gone_or_shut_out_goes_on_when_one_is_back(
    monkeypatch: pytest.MonkeyPatch, shut_out: bool
) -> None:
    monkeypatch.setattr("strategies.arrivals.flight.LOOK_AGAIN_S", 0.01)
    grid = trainers(6)
    engine, diary = build(cohort=3, mode="sync")
    looks = 0

    def outage(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        if server_round == 2 and shut_out:
            engine.state.fleet.excluded_until_s[:] = 1e9
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
    monkeypatch.setattr("strategies.arrivals.flight.LOOK_AGAIN_S", 0.01)
    grid = trainers(6)
    engine, diary = build(cohort=3)

    def outage(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        if server_round == 1:
            grid.online.clear()
        return None

    with pytest.raises(NoNodes):
        play(engine, VirtualArrivals(grid, SLOW_BY_FIVE), 4, outage)
    assert len(diary.rounds) == 1


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
    chosen = [{engine.state.fleet.names[row] for row in outcome.selected} for outcome in diary.rounds]
    assert not any("node-0" in names for names in chosen[5:15])
    assert any("node-0" in names for names in chosen[15:])
    assert len(engine.state.fleet) == 6 and engine.roster.rows[77] == engine.roster.rows[gone]


def test_an_excluded_node_is_connected_until_it_leaves() -> None:
    grid = trainers(4)
    engine, _ = build(cohort=3, mode="sync")
    seen = []

    def exclude_and_leave(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        seen.append((0 in engine.roster.connected, 0 in engine.roster.node_ids))
        if server_round == 1:
            engine.state.fleet.excluded_until_s[0] = 1e9
        if server_round == 2:
            grid.online.discard(1000)
        return None

    play(engine, VirtualArrivals(grid, SLOW_BY_FIVE), 3, exclude_and_leave)
    assert seen[1:] == [(True, True), (True, False), (False, False)]


def test_nodes_that_join_late_are_enrolled_and_soon_chosen() -> None:
    grid = trainers(8)
    late = sorted(grid.online)[6:]
    grid.online -= set(late)
    engine, diary = build(cohort=4, mode="sync", deadline_s=60.0)
    play(engine, VirtualArrivals(grid, SLOW_BY_FIVE), 12, lambda r, a: grid.online.update(late) if r == 6 else None)
    assert len(engine.state.fleet) == 8
    assert {"node-6", "node-7"} <= {a.node for o in diary.rounds[6:9] for a in o.accepted}


@dataclass
class Unfit(Trainer):
    """A node that says why it cannot take part, until it is mended."""

    mended: bool = False

    def __call__(self, message: Message) -> RecordDict:
        if message.metadata.message_type == "query" and not self.mended:
            said = {wire.PARTITION: self.partition, wire.CAUSE: "no module `rare`", wire.REMEDY: "pip install rare"}
            return RecordDict({wire.UNFIT: ConfigRecord(said)})
        return super().__call__(message)


def test_a_node_that_cannot_take_part_is_named_with_its_reason_and_joins_when_it_is_mended(
    caplog: pytest.LogCaptureFixture,
) -> None:
    grid = trainers(4)
    broken = grid.nodes[1007] = Unfit(1)
    engine, diary = build(cohort=3, mode="sync")

    def mend(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        if server_round == 3:
            assert engine.roster.unfit == {1007: "no module `rare`; pip install rare"}
            assert engine.roster.unfit_names == {1007: "node-1"}
            broken.mended = True
        return None

    play(engine, VirtualArrivals(grid, SLOW_BY_FIVE), 8, mend)
    said = [record.getMessage() for record in caplog.records if "cannot take part" in record.getMessage()]
    assert said == ["node-1 cannot take part: no module `rare`; pip install rare"]
    assert not engine.roster.unfit
    assert {engine.state.fleet.names[row] for outcome in diary.rounds for row in outcome.selected} >= {"node-1"}
    assert not any(
        engine.state.fleet.names[row] == "node-1" for outcome in diary.rounds[:3] for row in outcome.selected
    )


def test_a_run_whose_nodes_are_all_unfit_ends_with_their_reason() -> None:
    grid = trainers(3)
    for node_id in list(grid.nodes):
        grid.nodes[node_id] = Unfit(node_id)
    engine, _ = build(cohort=2)
    with pytest.raises(NoNodes, match="3 nodes connected, and none can take part; 3 of them: no module `rare`"):
        play(engine, VirtualArrivals(grid, SLOW_BY_FIVE), 2, lambda r, a: None)


def test_a_node_that_the_attendant_refuses_gets_no_work() -> None:
    def choosy(node_id: int, hello: Hello) -> None:
        if hello.partition == 2:
            raise Refused(Reason.OTHER_TASK, "classes: 'bee' there, 'cat' at the server")

    engine, diary = build(cohort=3, mode="sync")
    diary.vet = choosy
    play(engine, VirtualArrivals(trainers(4), SLOW_BY_FIVE), 4, lambda r, a: None)
    assert len(engine.state.fleet) == 3 and "node-2" not in engine.state.fleet.names
    assert len(diary.rounds) == 4
