"""What a node may count for, and whose place it may take, is settled when it is admitted."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from hypothesis import example, given, settings
from hypothesis import strategies as st
from strategy_grid import Links, NodeGrid, Trainer
from strategy_runs import Diary, build, play

from strategies import wire
from strategies.arrivals import VirtualArrivals
from strategies.engine import Engine
from strategies.fleet import Fleet

ALIKE = Links(lambda node, sent_s: 1.0)


class Signing(Trainer):
    """A node that says which address it signs with."""

    def __init__(self, partition: int, address: str, examples: int = 64) -> None:
        super().__init__(partition, examples)
        self._address = address

    def __call__(self, message: Message) -> RecordDict:
        content = super().__call__(message)
        if message.metadata.message_type == "query":
            content[wire.DEVICE] = ConfigRecord({wire.ADDRESS: self._address})
        return content


def run(nodes: dict[int, Trainer], rounds: int, act: Any = None, **chosen: Any) -> tuple[Engine, Diary, NodeGrid]:
    grid = NodeGrid(nodes)
    engine, diary = build(**{"cohort": 10, "mode": "sync", "quota": 1.0, "deadline_s": 100.0, **chosen})
    play(engine, VirtualArrivals(grid, ALIKE), rounds, act and (lambda round, arrays: act(round, grid, engine)))
    return engine, diary, grid


def shares(diary: Diary) -> dict[str, float]:
    """Mean weight of each node over the rounds."""
    total: dict[str, float] = {}
    for outcome in diary.rounds:
        for accepted in outcome.accepted:
            total[accepted.node] = total.get(accepted.node, 0.0) + accepted.weight / len(diary.rounds)
    return total


@pytest.mark.parametrize("policy", ["network_aware", "random"])
@pytest.mark.parametrize("claimed", [2**40, 10**12, 1000])
def test_whoever_claims_a_trillion_examples_counts_for_a_third_more_than_its_share_at_most(
    policy: str, claimed: int
) -> None:
    nodes = {node: Trainer(node, examples=claimed if node == 3 else 64) for node in range(10)}
    engine, diary, _ = run(nodes, 12, name=policy)
    assert shares(diary)["node-3"] <= 1.5 * 0.1
    paid_for = {accepted.node: accepted.examples for outcome in diary.rounds for accepted in outcome.accepted}
    # the same number for weight and pay: 88 of 664 are 4/3 of a tenth
    assert paid_for["node-3"] == engine.state.fleet.examples[3] == 88


def test_claims_are_believed_up_to_the_configured_most_where_the_operator_says_so() -> None:
    nodes = {node: Trainer(node, examples=10**9 if node == 3 else 64) for node in range(10)}
    engine, _, _ = run(nodes, 2, examples="claimed", max_examples=5000)
    assert engine.state.fleet.examples.tolist() == [64, 64, 64, 5000, 64, 64, 64, 64, 64, 64]


def agreed(claims: list[int], **how: Any) -> list[int]:
    fleet = Fleet()
    fleet.enrol_all([f"node-{i}" for i in range(len(claims))], examples=claims, sample_s=[1e-3] * len(claims))
    fleet.agree(**{"most": 10**6, "as_claimed": False, **how})
    return fleet.examples.tolist()


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=60))
def test_no_claim_counts_for_more_than_four_thirds_of_an_even_share_and_none_is_cut_for_less(claims: list[int]) -> None:
    counted, claiming = agreed(claims, most=2**40), sum(claim > 0 for claim in claims)
    largest = 4 / 3 * sum(counted) / max(1, claiming)
    for claim, count in zip(claims, counted, strict=True):
        assert count <= max(1, largest + claiming)  # whole numbers
        assert count == claim or count >= largest - claiming


@settings(max_examples=2000)
@example([1, 1, 1, 2, 2, 3])
@example([32, 64, 128, 128, 2**40])
@given(st.lists(st.sampled_from([1, 2, 3, 7, 32, 64, 96, 128, 2**40]), min_size=1, max_size=12))
def test_claims_that_equal_their_bound_are_agreed_on_as_well(claims: list[int]) -> None:
    assert all(0 < count <= claim for count, claim in zip(agreed(claims, most=2**40), claims, strict=True))


def test_honest_nodes_of_sizes_that_differ_by_less_than_a_third_count_for_what_they_have() -> None:
    assert agreed([60, 64, 70, 75, 80]) == [60, 64, 70, 75, 80]
    assert agreed([640, 64]) == [128, 64] and agreed([640]) == [640] and agreed([0, 0]) == [0, 0]


def test_a_claim_makes_nobody_wait_for_more_than_ten_times_the_usual_work() -> None:
    nodes = {node: Trainer(node, examples=10**12 if node == 3 else 64) for node in range(10)}
    run(nodes, 2, epochs=2, batch_size=16)
    steps = {node: {order.local_steps for order in trainer.orders} for node, trainer in nodes.items()}
    assert steps.pop(3) == {80} and set.union(*steps.values()) == {8}


def test_it_is_said_once_who_counts_for_less_than_it_claims(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "strategies")
    run({node: Trainer(node, examples=640 if node == 3 else 64) for node in range(10)}, 3)
    told = [record.getMessage() for record in caplog.records if "than they claim" in record.getMessage()]
    assert told == [
        "1 of 10 nodes count for fewer examples than they claim, node-3 for 88 of 640; see training.examples"
    ]


def test_a_hostile_third_that_claims_anything_counts_for_four_tenths_together() -> None:
    counted = agreed([2**40, 64, 64, 10**12, 64, 64, 64, 10**9, 64, 64])
    assert sum(counted[row] for row in (0, 3, 7)) <= 0.4 * sum(counted) + 1


def test_an_honest_node_of_ten_times_the_data_counts_for_all_of_it_where_claims_are_believed() -> None:
    sizes = [640, *[64] * 9]
    assert agreed(sizes)[0] == 88 and agreed(sizes, as_claimed=True)[0] == 640


def test_a_second_node_that_claims_a_share_in_use_is_turned_away_by_name_and_the_first_goes_on() -> None:
    nodes: dict[int, Trainer] = {node: Signing(node, f"0x{node}") for node in range(6)}

    def intrude(round: int, grid: NodeGrid, engine: Engine) -> None:
        if round == 2:
            grid.nodes[900], grid.nodes[901] = Signing(3, "0x3"), Signing(3, "0xbad")
            grid.online |= {900, 901}

    engine, diary, grid = run(nodes, 8, intrude, cohort=6)
    for intruder in (900, 901):
        assert "node-3 is connected already" in engine.roster.unfit[intruder]
        assert not grid.nodes[intruder].orders
    assert len(nodes[3].orders) == 8 and len(engine.state.fleet) == 6


def test_two_claimants_that_come_at_once_do_not_both_get_the_share() -> None:
    nodes: dict[int, Trainer] = {1: Signing(0, "0xa"), 2: Signing(0, "0xb"), 3: Signing(1, "0xc")}
    engine, _, _ = run(nodes, 4, cohort=2)
    assert len(nodes[1].orders) == 4 and not nodes[2].orders and 2 in engine.roster.unfit


def test_a_share_whose_node_is_away_is_given_to_its_own_key_alone() -> None:
    nodes: dict[int, Trainer] = {node: Signing(node, f"0x{node}") for node in range(4)}

    def act(round: int, grid: NodeGrid, engine: Engine) -> ArrayRecord | None:
        if round == 2:
            grid.online.discard(3)
            grid.nodes[900] = Signing(3, "0xbad")
            grid.online.add(900)
        if round == 5:
            assert engine.roster.unfit[900] == "node-3 was enrolled by 0x3, and 0xbad is another"
            grid.nodes[901] = Signing(3, "0x3")
            grid.online.add(901)
        if round == 7:
            grid.online.add(3)  # the old connection is back beside the new one
        return None

    engine, _, grid = run(nodes, 10, act, cohort=4)
    assert not grid.nodes[900].orders and len(grid.nodes[901].orders) == 5
    assert len(nodes[3].orders) == 2 and len(engine.state.fleet) == 4
    saved = json.loads(json.dumps(engine.saved()[0]["roster"]))
    assert saved["owners"] == {f"node-{i}": f"0x{i}" for i in range(4)} and saved["rows"]["901"] == 3


def test_an_address_that_is_excluded_gets_no_second_share_under_a_new_id() -> None:
    nodes: dict[int, Trainer] = {node: Signing(node, f"0x{node}") for node in range(6)}

    def act(number: int, grid: NodeGrid, engine: Engine) -> None:
        if number == 2:
            grid.online.discard(3)
        if number == 3:  # its last update has proved sound by now
            engine.state.fleet.excluded_until_s[3] = 1e9
            grid.nodes[900], grid.nodes[901] = Signing(7, "0x3"), Signing(3, "0x3")
            grid.online |= {900, 901}

    engine, _, grid = run(nodes, 8, act, cohort=6)
    assert engine.roster.unfit[900] == "0x3 enrolled node-3; one address can have one share only"
    assert len(engine.state.fleet) == 6 and engine.state.fleet.excluded[3]  # 901 is node-3 still, and excluded
    assert not grid.nodes[900].orders and not grid.nodes[901].orders


class Mute(Signing):
    """A node that answers no order."""

    def __call__(self, message: Message) -> RecordDict:
        if message.metadata.message_type == "train":
            raise RuntimeError("no")
        return super().__call__(message)


class Garbling(Signing):
    """A node that answers each order with nothing that can be read."""

    def __call__(self, message: Message) -> RecordDict:
        content = super().__call__(message)
        return RecordDict() if message.metadata.message_type == "train" else content


def test_a_share_whose_first_claimant_never_worked_goes_to_the_next_and_then_stays() -> None:
    nodes: dict[int, Trainer] = {node: Signing(node, f"0x{node}") for node in range(5)}
    nodes[5] = Mute(5, "0xbad")
    nodes[6] = honest = Signing(5, "0x5")
    seen = []

    def act(number: int, grid: NodeGrid, engine: Engine) -> None:
        seen.append(engine.roster.owners.get("node-5"))
        if honest.orders and 6 in grid.online and number > 95:
            grid.online.discard(6)  # the mute one claims the share again while its new owner is away
            grid.nodes[7] = Signing(6, "0xbad")  # and may have another share, for it has none any more
            grid.online.add(7)

    engine, _, _ = run(nodes, 105, act, cohort=6)
    changes = [pair for pair in itertools.pairwise(seen) if len({*pair}) == 2]
    assert changes == [(None, "0xbad"), ("0xbad", "0x5")] and honest.orders
    assert engine.roster.unfit[5] == "node-5 was enrolled by 0x5, and 0xbad is another"
    assert engine.roster.owners["node-6"] == "0xbad" and 7 not in engine.roster.unfit


def test_a_share_whose_first_claimant_sends_what_cannot_be_used_goes_to_the_next() -> None:
    nodes: dict[int, Trainer] = {node: Signing(node, f"0x{node}") for node in range(5)}
    nodes[5], nodes[6] = Garbling(5, "0xbad"), Signing(5, "0x5")
    engine, _, _ = run(nodes, 60, cohort=6)
    assert nodes[5].orders and engine.roster.owners["node-5"] == "0x5"


def test_a_share_whose_first_claimant_left_before_its_first_order_goes_to_the_next() -> None:
    nodes: dict[int, Trainer] = {node: Signing(node, f"0x{node}") for node in range(6)}
    nodes[5] = Signing(5, "0xbad")

    def act(number: int, grid: NodeGrid, engine: Engine) -> None:
        if number == 2:
            (unasked,) = {node for node in range(6) if not grid.nodes[node].orders} & {5}
            grid.online.discard(unasked)
            grid.nodes[6] = Signing(5, "0x5")
            grid.online.add(6)

    engine, _, _ = run(nodes, 6, act, cohort=1)
    assert engine.roster.owners["node-5"] == "0x5" and 6 not in engine.roster.unfit


def test_a_node_that_fails_again_and_again_counts_once_toward_the_end_of_a_round() -> None:
    """Three of ten fail at once in asynchronous rounds of three replies; before, they ended each round empty."""
    nodes: dict[int, Trainer] = {node: (Mute if node > 6 else Signing)(node, f"0x{node}") for node in range(10)}
    engine, diary, _ = run(nodes, 12, cohort=4, mode="async", quota=0.75)
    assert all(len(outcome.accepted) >= 3 for outcome in diary.rounds)
    assert all(len({r.node for r in o.refused}) == len(o.refused) for o in diary.rounds)


def test_a_later_claim_of_more_examples_changes_nothing() -> None:
    class Grows(Trainer):
        def __call__(self, message: Message) -> RecordDict:
            content = super().__call__(message)
            if message.metadata.message_type == "train":
                metrics = dict(content.metric_records[wire.METRICS])
                content[wire.METRICS] = MetricRecord({**metrics, wire.EXAMPLES: 10**9})
            return content

    nodes = {node: Grows(node) if node == 3 else Trainer(node) for node in range(6)}
    engine, diary, _ = run(nodes, 6, cohort=6)
    assert {a.examples for outcome in diary.rounds for a in outcome.accepted} == {64}
    assert shares(diary)["node-3"] == pytest.approx(1 / 6, rel=0.05)
