"""The law that matters most: whoever can be reached gets its data share of the weight in the long run."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategy_grid import fleet_of, plan_of

from strategies.fleet import Fleet, Ints, health
from strategies.fleet.link import Goodput, LinkEstimate
from strategies.selection.network_aware import NetworkAwareSelection
from strategies.weighting import (
    LARGEST_WEIGHT,
    MOST_OF_FAIR,
    Accounts,
    ExampleAccounts,
    data_share,
    staleness_discount,
    tilt,
)

ROUNDS = 300
Pattern = Callable[[int, np.random.Generator, Fleet], Ints]


def weigh(accounts: Accounts, fleet: Fleet, row: int, *, staleness: int) -> float:
    """An update's weight, with its debt settled, as when it is added."""
    weighed = accounts.weigh(fleet, row, staleness=staleness)
    accounts.settle(fleet, row, weighed)
    return weighed.weight


def population(nodes: int, seed: int, *, sigma: float = 1.4) -> Fleet:
    """Log-normal data sizes, links that differ by factors of a hundred, delivery from a half to one."""
    rng = np.random.default_rng(seed)
    fleet = Fleet()
    for i in range(nodes):
        bps = 20e6 * np.exp(sigma * rng.standard_normal())
        link = LinkEstimate(
            rtt_s=0.08 * np.exp(rng.standard_normal()),
            uplink=Goodput(bps, 0.2, 5),
            successes=4 * rng.uniform(0.5, 1),
            samples=5,
        )
        examples = int(100 * np.exp(0.8 * rng.standard_normal())) + 1
        fleet.enrol_all([f"node-{i}"], examples=[examples], sample_s=[0.001], links=[link])
    return fleet


def misses_of_the_law(accounts: Accounts) -> list[int]:
    """Nodes whose mean weight is off its share by more than 10 % of it and by more than 0.1 of the mean share."""
    rounds = np.maximum(accounts.rounds, 1)
    mean, share = accounts.paid / rounds, accounts.due / rounds
    seen = accounts.rounds > 0
    allowed = np.maximum(0.1 * share, 0.1 * share[seen].mean())
    return np.flatnonzero(seen & (np.abs(mean - share) > allowed)).tolist()


def in_turn(count: int) -> Pattern:
    """Everybody once, then everybody once more in another order (the same groups for ever could not be weighted right:
    a group with much data gets no more than its rounds)."""

    def pick(round: int, rng: np.random.Generator, fleet: Fleet) -> Ints:
        turn, place = divmod(round * count, len(fleet))
        orders = [np.random.default_rng([turn + i, len(fleet)]).permutation(len(fleet)) for i in range(2)]
        rows: list[int] = []
        for row in np.concatenate(orders)[place:].tolist():
            if row not in rows:
                rows.append(row)
        return np.asarray(rows[:count])

    return pick


def at_random(count: int) -> Pattern:
    return lambda round, rng, fleet: rng.choice(len(fleet), count, replace=False)


def by_quality(count: int) -> Pattern:
    """Four draws in five go to the faster half."""

    def pick(round: int, rng: np.random.Generator, fleet: Fleet) -> Ints:
        faster = fleet.quality > np.median(fleet.quality)
        p = np.where(faster, 4.0, 1.0)
        return rng.choice(len(fleet), count, replace=False, p=p / p.sum())

    return pick


@pytest.mark.no_cover
@pytest.mark.parametrize(
    ("nodes", "pattern"),
    [(100, in_turn(10)), (37, in_turn(10)), (30, at_random(10)), (20, by_quality(10)), (10, at_random(10))],
    ids=["100 in turn", "37 in turn", "30 at random", "20 by quality", "10 always"],
)
@pytest.mark.parametrize("seed", range(3))
def test_mean_weights_are_data_shares_whatever_the_links_and_whoever_is_chosen(
    nodes: int, pattern: Pattern, seed: int
) -> None:
    fleet, accounts, rng = population(nodes, seed), Accounts(), np.random.default_rng(seed)
    for round in range(ROUNDS):
        rows = pattern(round, rng, fleet)
        fleet.orders[rows] = True
        weights = []
        for row in rows:
            fleet.orders[row] = False
            weights.append(weigh(accounts, fleet, int(row), staleness=int(rng.integers(0, 5))))
        accounts.book(fleet, rows.tolist(), weights)
    assert misses_of_the_law(accounts) == []
    assert accounts.due == pytest.approx(ROUNDS * data_share(fleet))


def test_debts_sum_to_nothing_where_only_nodes_without_data_are_reachable() -> None:
    fleet, accounts = fleet_of([0, 0, 0, 50]), Accounts()
    fleet.online[3] = False
    for round in range(1, 31):
        row = round % 3
        accounts.book(fleet, [row], [weigh(accounts, fleet, row, staleness=0)])
    assert fleet.owed.sum() == pytest.approx(0, abs=1e-9) and fleet.owed[3] == 0
    assert misses_of_the_law(accounts) == []


@pytest.mark.no_cover
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", ["plain", "drop-outs", "late", "vanishing"])
def test_with_our_selection_and_nodes_restarting_at_once_the_law_holds_for_every_node(case: str, seed: int) -> None:
    """Asynchronous rounds of 8 arrivals, 10 of 100 nodes at work, journeys that differ by factors of twenty."""
    fleet, accounts, rng = population(100, seed), Accounts(), np.random.default_rng([seed, 1])
    seconds = rng.lognormal(1.0, 0.8, 100)
    selection, in_flight, now_s = NetworkAwareSelection(), [], 0.0
    joins = np.where(rng.random(100) < 0.3, 100, 0) if case == "late" else np.zeros(100)
    lossy = rng.random(100) * 0.4 if case == "drop-outs" else np.zeros(100)
    for round in range(1, ROUNDS + 1):
        away = (np.arange(100) % 7 == 3) & (80 <= round < 150) & (case == "vanishing")
        fleet.online[:] = (round > joins) & ~away
        rows: list[int] = []
        weights: list[float] = []
        while len(rows) < 8:
            health.rested(fleet, at_s=now_s)
            free = np.setdiff1d(fleet.available(), rows)
            room = 10 - len(in_flight)
            selected = selection.select(fleet, free, plan_of([1.0] * 100), cohort=room, round=round, rng=rng)
            chosen = selected.rows
            for row in chosen:
                fleet.orders[row], fleet.last_round[row] = True, round
                fleet.selections[row] += 1
                in_flight.append((now_s + seconds[row] * rng.uniform(0.8, 1.2), int(row), round))
            in_flight.sort()
            now_s, row, sent = in_flight.pop(0)
            fleet.orders[row] = False
            if rng.random() < lossy[row]:
                health.silent(fleet, row, at_s=now_s, round=round, round_s=now_s / round)
                continue
            health.answered(fleet, row)
            fleet.rms_loss[row] = rng.lognormal(0, 0.3)
            rows.append(row)
            weights.append(weigh(accounts, fleet, row, staleness=round - sent))
        accounts.book(fleet, rows, weights)
    assert misses_of_the_law(accounts) == []


def test_nobody_is_owed_anything_for_rounds_it_could_not_be_reached_in() -> None:
    fleet, accounts = fleet_of([10, 10, 20]), Accounts()
    fleet.online[2] = False
    for _ in range(10):
        accounts.book(fleet, [0, 1], [1.0, 1.0])
    assert accounts.due.tolist() == [5.0, 5.0, 0.0] and accounts.rounds.tolist() == [10, 10, 0]
    fleet.online[2] = True
    accounts.book(fleet, [0], [1.0])
    assert accounts.due.tolist() == pytest.approx([5.25, 5.25, 0.5])
    assert fleet.owed == pytest.approx([5.25 - 6.0, 0.25, 0.5])


def test_a_node_silent_three_times_in_a_row_is_due_nothing_until_it_answers() -> None:
    fleet, accounts = fleet_of([10, 10]), Accounts()
    for _ in range(3):
        health.silent(fleet, 1, at_s=0.0, round=0, round_s=1.0)
    accounts.book(fleet, [0], [1.0])
    assert accounts.due.tolist() == [1.0, 0.0]
    accounts.book(fleet, [0, 1], [1.0, 1.0])  # it did answer
    assert accounts.due.tolist() == [1.5, 0.5]


def test_a_weight_is_arrears_times_tilt_by_hand() -> None:
    fleet, accounts = fleet_of([10, 30]), Accounts()
    fleet.quality[:] = [0.27, 0.33]  # typical 0.3
    fleet.orders[:] = [False, True]
    # both are known: arrears 1/4 and 3/4 sum to 1, so the level is 0
    assert weigh(accounts, fleet, 0, staleness=0) == pytest.approx(0.25 * 0.9)
    assert weigh(accounts, fleet, 1, staleness=0) == pytest.approx(0.75 * 1.1)
    assert accounts.book(fleet, [0, 1], [1.0, 3.0]) == [0.25, 0.75]


def test_what_is_missing_to_a_whole_round_is_shared_evenly() -> None:
    fleet, accounts = fleet_of([10, 10, 20], orders=[0, 1, 0]), Accounts()
    fleet.quality[:] = 0.3
    fleet.owed[:] = [-0.15, 0.05, 0.1]
    # nodes 0 and 1 are at hand with arrears 0.1 and 0.3: 0.6 is missing, 0.3 for each
    assert weigh(accounts, fleet, 0, staleness=0) == pytest.approx(0.4)
    fleet.orders[1] = False
    assert weigh(accounts, fleet, 1, staleness=0) == pytest.approx(0.6)


def test_a_second_update_within_a_round_is_not_paid_the_same_debt_again() -> None:
    fleet, accounts = fleet_of([10, 30]), Accounts()
    fleet.owed[0] = 0.5
    weigh(accounts, fleet, 0, staleness=0)
    assert fleet.owed[0] == pytest.approx(-0.25)  # settled, this round's share included


def test_weights_are_positive_even_far_in_credit_and_never_more_than_two_rounds() -> None:
    fleet, accounts = fleet_of([10, 30]), Accounts()
    fleet.owed[:] = [-50.0, 50.0]
    assert weigh(accounts, fleet, 0, staleness=0) > 0
    assert weigh(accounts, fleet, 1, staleness=0) <= 2.0


@given(
    st.lists(st.tuples(st.integers(1, 100), st.floats(-2.0, 8.0)), min_size=2, max_size=8),
    st.integers(1, 8),
)
def test_whichever_node_answers_first_its_weight_leaves_the_others_the_rest_of_the_round(
    nodes: list[tuple[int, float]], expected: int
) -> None:
    """What each would weigh if it answered now, with the others at work, makes up the round, as far as caps allow."""
    fleet, accounts = fleet_of([examples for examples, _ in nodes]), Accounts()
    fleet.quality[:] = 0.3
    accounts.restore({**accounts.state(), "count": float(expected)})
    fleet.owed[:] = [owed for _, owed in nodes]
    fleet.orders[:] = 1
    weighed = [accounts.weigh(fleet, row, staleness=0) for row in range(len(nodes))]
    whole = min(len(nodes) / expected, sum(each.most for each in weighed))
    assert sum(each.weight for each in weighed) >= whole - 1e-9
    assert all(each.weight <= min(LARGEST_WEIGHT, each.most) for each in weighed)


def withheld(rounds: int, late: range, *, hostile: tuple[int, ...]) -> tuple[list[list[float]], Accounts, Fleet]:
    """Normalised weights (R, 10) of ten equal nodes, of which the hostile ones answer in the ``late`` rounds only."""
    fleet, accounts, rows_R = fleet_of([64] * 10), Accounts(), []
    for number in range(rounds):
        answering = [row for row in range(10) if row not in hostile or number in late]
        fleet.orders[:] = 1
        weights = []
        for row in [*hostile, *range(10)] if number in late else answering:
            if fleet.orders[row]:
                fleet.orders[row] = 0
                weights.append(weigh(accounts, fleet, row, staleness=0))
        order = [*hostile, *(row for row in range(10) if row not in hostile)] if number in late else answering
        normalised = accounts.book(fleet, order, weights)
        found = [0.0] * 10
        for row, weight in zip(order, normalised, strict=True):
            found[row] = weight
        rows_R.append(found)
    return rows_R, accounts, fleet


def test_a_debt_gathered_by_withholding_is_paid_over_several_rounds_and_no_node_owns_one() -> None:
    weights_RN, accounts, fleet = withheld(120, range(60, 120), hostile=(9,))
    largest = max(row[9] for row in weights_RN)
    assert largest <= 1.1 * MOST_OF_FAIR / 10  # before: 0.9
    assert sum(row[9] for row in weights_RN) == pytest.approx(12.0, rel=0.05)  # its fair sum, and no more
    assert fleet.owed.sum() == pytest.approx(0, abs=1e-9) and abs(fleet.owed[9]) < 0.2
    assert all(sum(row) == pytest.approx(1) for row in weights_RN)


def test_a_hoarder_in_a_round_of_four_weighs_no_more_than_five_sixths() -> None:
    fleet, accounts = fleet_of([10] * 10), Accounts()
    for _ in range(30):
        accounts.book(fleet, [0, 1, 2, 3], [weigh(accounts, fleet, row, staleness=0) for row in range(4)])
    fleet.orders[4:9] = 1  # others at work are owed as much as the hoarder, and do not answer in this round
    normalised = accounts.book(fleet, [9, 0, 1, 2], [weigh(accounts, fleet, row, staleness=0) for row in (9, 0, 1, 2)])
    assert normalised[0] == pytest.approx(5 / 6, abs=0.01)  # before: 0.98


def test_a_node_that_is_expected_in_every_round_and_answers_in_every_fifth_gets_its_share() -> None:
    weights_RN, _, _ = withheld(300, range(4, 300, 5), hostile=(9,))
    assert sum(row[9] for row in weights_RN) == pytest.approx(30.0, rel=0.1)


def test_a_node_with_a_third_of_the_data_weighs_a_third_though_it_answers_every_other_time() -> None:
    fleet, accounts = fleet_of([45, *[10] * 9]), Accounts()
    for number in range(200):
        rows = list(range(10)) if number % 2 else list(range(1, 10))
        fleet.orders[:] = 0
        accounts.book(fleet, rows, [weigh(accounts, fleet, row, staleness=0) for row in rows])
    assert accounts.paid[0] / 200 == pytest.approx(1 / 3, rel=0.1)


def test_asking_what_an_update_weighs_changes_nothing() -> None:
    fleet, accounts = fleet_of([10, 30]), Accounts()
    assert accounts.weigh(fleet, 0, staleness=1) == accounts.weigh(fleet, 0, staleness=1)
    assert not fleet.owed.any() and accounts.drift() == 0.0 and not accounts.due.size


def test_tilt_is_bounded_and_staleness_is_fedbuffs() -> None:
    assert staleness_discount(0) == 1.0 and staleness_discount(3) == 0.5
    assert tilt(0.3, 0.3, 0) == 1.0 and tilt(0.6, 0.3, 3) == 1.0
    assert tilt(0.9, 0.1, 0) == 1.25 and tilt(1e-6, 1.0, 100) == 0.8


def test_a_round_without_updates_books_nothing() -> None:
    fleet, accounts = fleet_of([10, 30]), Accounts()
    assert accounts.book(fleet, [], []) == [] and accounts.drift() == 0.0
    assert not accounts.due.any()


def test_drift_is_the_largest_gap_between_mean_weight_and_share() -> None:
    fleet, accounts = fleet_of([10, 30]), Accounts()
    accounts.book(fleet, [0, 1], [1.0, 1.0])
    assert accounts.drift() == pytest.approx(0.25)


def test_plain_weights_are_examples_discounted_by_staleness_and_their_bias_is_booked() -> None:
    fleet, accounts = fleet_of([10, 30]), ExampleAccounts()
    assert weigh(accounts, fleet, 1, staleness=3) == 15.0
    for _ in range(10):
        accounts.book(fleet, [0], [weigh(accounts, fleet, 0, staleness=0)])
    assert accounts.drift() == pytest.approx(0.75)


def test_books_saved_and_restored_are_the_same() -> None:
    fleet, accounts, restored = fleet_of([10, 30]), Accounts(), Accounts()
    accounts.book(fleet, [0], [1.0])
    restored.restore(json.loads(json.dumps(accounts.state())))
    assert restored.drift() == accounts.drift() and restored.state() == accounts.state()
