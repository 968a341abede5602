"""How long a round may wait, when nodes claim to be slow and when they are."""

from __future__ import annotations

import pytest
from flwr.app import Message, MetricRecord, RecordDict
from strategy_grid import Links, NodeGrid, Trainer
from strategy_runs import build, play

from strategies import wire
from strategies.arrivals import VirtualArrivals
from strategies.planning.progress import FURTHEST_DEADLINE
from strategies.round.choosing import ASYNCHRONOUS

SLOW = range(7, 10)  # the nodes that are slow, or claim to be


class Probing(Trainer):
    """Says how its link is."""

    link = {wire.UPLINK_BPS: 1e6, wire.DOWNLINK_BPS: 1e6, wire.RTT_S: 0.1}

    def __call__(self, message: Message) -> RecordDict:
        content = super().__call__(message)
        content[wire.LINK] = MetricRecord(self.link)
        return content


class Claiming(Probing):
    """Claims the slowest link that passes the door."""

    link = {wire.UPLINK_BPS: 1e3, wire.DOWNLINK_BPS: 1e3, wire.RTT_S: 60.0}


class ClaimingLess(Probing):
    """Claims a link that is slow, but not hopelessly so."""

    link = Probing.link | {wire.RTT_S: 0.8}


@pytest.mark.parametrize(("claiming", "longer"), [(Claiming, 1), (ClaimingLess, FURTHEST_DEADLINE)])
@pytest.mark.parametrize(("mode", "factor"), [("sync", 1), ("async", ASYNCHRONOUS)])
def test_three_of_ten_that_claim_to_be_slow_and_withhold_make_no_round_longer_than_stated(
    mode: str, factor: float, claiming: type[Probing], longer: float
) -> None:
    nodes = {node: (claiming if node in SLOW else Probing)(node) for node in range(10)}
    links = Links(lambda node, sent_s: 1e9 if node in SLOW else 1.0)
    engine, diary = build(cohort=10, mode=mode)
    play(engine, VirtualArrivals(NodeGrid(nodes), links), 20)
    planned_s = 1.0 + 0.001 * 32 * 20  # three round trips, counted thrice for their jitter, and the work
    assert max(o.ended_s - o.started_s for o in diary.rounds) <= factor * longer * planned_s * (1 + 1e-9)
    assert sum(len(outcome.accepted) for outcome in diary.rounds) >= 70


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_honest_nodes_on_links_a_hundred_times_slower_count_as_often_as_their_links_allow(mode: str) -> None:
    links = Links(lambda node, sent_s: 20.0 if node in SLOW else 0.2)
    engine, diary = build(cohort=10, mode=mode)
    play(engine, VirtualArrivals(NodeGrid({node: Trainer(node) for node in range(10)}), links), 90)
    counted = [accepted.node for outcome in diary.rounds for accepted in outcome.accepted]
    possible = int(diary.rounds[-1].ended_s / 20.7)  # a link's 20 s and the work
    assert possible >= 2 and all(counted.count(f"node-{node}") >= possible - 1 for node in SLOW)
