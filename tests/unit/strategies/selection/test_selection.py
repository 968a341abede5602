"""Every policy: laws that hold for all of them, and numbers worked by hand for each."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategy_grid import fleet_of, plan_of

from strategies.errors import UnknownPolicy
from strategies.fleet import Fleet
from strategies.selection import POLICIES, SelectionPolicy, policy
from strategies.selection.fedcs import FedCSSelection
from strategies.selection.latency import LatencySelection
from strategies.selection.network_aware import NetworkAwareSelection, priority
from strategies.selection.overcommit import OvercommitSelection, overcommitted
from strategies.selection.policy import Selection, draw
from strategies.selection.power_of_choice import PowerOfChoiceSelection
from strategies.selection.random import RandomSelection
from strategies.selection.tifl import TiFLSelection, ranked, tier_losses


def ask(
    chosen: SelectionPolicy, fleet: Fleet, seconds: Sequence[float], *, cohort: int, round: int = 1, seed: int = 0
) -> Selection:
    rng = np.random.default_rng(seed)
    return chosen.select(fleet, fleet.available(), plan_of(seconds), cohort=cohort, round=round, rng=rng)


@pytest.mark.parametrize("name", POLICIES)
@given(count=st.integers(1, 40), cohort=st.integers(1, 12), seed=st.integers(0, 2**16), data=st.data())
def test_a_policy_names_distinct_available_nodes_at_most_thirteen_tenths_of_the_cohort(
    name: str, count: int, cohort: int, seed: int, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    busy = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    fleet = fleet_of(
        rng.integers(0, 100, count),
        orders=busy,
        loss=rng.random(count),
        rms_loss=rng.random(count),
        owed=rng.normal(size=count),
    )
    chosen = policy(name)
    for round in range(1, 6):
        selection = ask(chosen, fleet, rng.uniform(1, 50, count), cohort=cohort, round=round, seed=seed + round)
        rows = selection.rows
        assert np.unique(rows).size == rows.size <= overcommitted(cohort)
        assert not fleet.at_work[rows].any()
        assert selection.quota is None or selection.quota <= cohort
        assert rows.size or not fleet.available().size
        chosen.closed(fleet, round=round, selected=rows, arrived=rows[::2])


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_saved_and_restored_goes_on_the_same(name: str) -> None:
    rng = np.random.default_rng(3)
    fleet = fleet_of(rng.integers(10, 100, 30), loss=rng.random(30), rms_loss=rng.random(30), owed=rng.normal(size=30))
    fleet.selections[:] = 1
    seconds = rng.uniform(1, 50, 30)
    first = policy(name)
    for round in range(1, 50):
        rows = ask(first, fleet, seconds, cohort=5, round=round, seed=round).rows
        first.closed(fleet, round=round, selected=rows, arrived=rows[:4])
    second = policy(name)
    second.restore(json.loads(json.dumps(first.state())))
    for round in range(50, 70):
        ours, theirs = (ask(p, fleet, seconds, cohort=5, round=round, seed=round).rows for p in (first, second))
        assert ours.tolist() == theirs.tolist()
        for chosen in (first, second):
            chosen.closed(fleet, round=round, selected=ours, arrived=ours[:4])


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_chooses_nobody_when_everybody_is_away(name: str) -> None:
    fleet = fleet_of([10] * 3)
    fleet.online[:] = False
    assert ask(policy(name), fleet, [3.0, 2.0, 1.0], cohort=3).rows.size == 0


def test_an_unknown_policy_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(UnknownPolicy, match="did you mean 'pyramid'"):
        policy("pyramidfl")
    with pytest.raises(UnknownPolicy, match=f"there are {', '.join(POLICIES)}"):
        policy("xyzzy")


def test_draws_are_in_proportion_to_scores_and_zeros_come_last() -> None:
    rows, scores = np.arange(4), np.array([1.0, 3.0, 0.0, 0.0])
    rng = np.random.default_rng(0)
    first = np.array([draw(rows, scores, 1, rng)[0] for _ in range(4000)])
    assert np.bincount(first, minlength=4) / 4000 == pytest.approx([0.25, 0.75, 0, 0], abs=0.03)
    assert set(draw(rows, scores, 3, rng)[:2].tolist()) == {0, 1}


def test_random_takes_everybody_equally_often() -> None:
    fleet = fleet_of([10] * 20)
    counts = np.zeros(20)
    for seed in range(2000):
        counts[ask(RandomSelection(), fleet, [1.0] * 20, cohort=5, seed=seed).rows] += 1
    assert counts / 2000 == pytest.approx(np.full(20, 0.25), abs=0.04)


def test_overcommit_asks_thirteen_for_ten_and_waits_for_ten() -> None:
    selection = ask(OvercommitSelection(), fleet_of([10] * 40), [1.0] * 40, cohort=10)
    assert (selection.rows.size, selection.quota) == (13, 10)
    assert [overcommitted(k) for k in (1, 3, 5, 10, 100)] == [1, 3, 6, 13, 130]


def test_latency_takes_the_fastest() -> None:
    selection = ask(LatencySelection(), fleet_of([10] * 5), [5.0, 1.0, 4.0, 2.0, 3.0], cohort=3)
    assert selection.rows.tolist() == [1, 3, 4]


def test_power_of_choice_keeps_the_highest_losses_of_its_candidates_and_prefers_the_unseen() -> None:
    fleet = fleet_of([10] * 4, loss=[0.5, np.nan, 2.0, 1.0])
    assert ask(PowerOfChoiceSelection(ratio=2.0), fleet, [1.0] * 4, cohort=2).rows.tolist() == [1, 2]


def test_power_of_choice_draws_candidates_by_data_size() -> None:
    fleet = fleet_of([1, 1, 98], loss=[9.0, 9.0, 0.1])
    picked = [
        int(ask(PowerOfChoiceSelection(ratio=1.0), fleet, [1.0] * 3, cohort=1, seed=s).rows[0]) for s in range(500)
    ]
    assert np.mean(np.array(picked) == 2) == pytest.approx(0.98, abs=0.03)


def test_fedcs_takes_the_candidates_that_make_the_deadline_and_sets_it() -> None:
    fleet = fleet_of([10] * 6)
    selection = ask(FedCSSelection(deadline_s=3.5), fleet, [6.0, 5.0, 4.0, 3.0, 2.0, 1.0], cohort=5)
    assert selection.rows.tolist() == [5, 4, 3]
    assert (selection.quota, selection.deadline_s) == (3, 3.5)


def test_fedcs_by_itself_takes_the_median_and_doubles_it_while_nobody_makes_it() -> None:
    fleet, chosen = fleet_of([10] * 6), FedCSSelection()
    seconds = [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]
    assert ask(chosen, fleet, seconds, cohort=6).deadline_s == 3.5
    chosen.closed(fleet, round=1, selected=np.array([5]), arrived=np.array([], np.int64))
    assert ask(chosen, fleet, seconds, cohort=6).deadline_s == 7.0
    chosen.closed(fleet, round=2, selected=np.array([5]), arrived=np.array([5]))
    assert ask(chosen, fleet, seconds, cohort=6).deadline_s == 7.0


def test_fedcs_stays_finite_however_many_rounds_nobody_makes() -> None:
    fleet, chosen = fleet_of([10] * 6), FedCSSelection()
    for round in range(1, 1100):
        chosen.closed(fleet, round=round, selected=np.array([5]), arrived=np.array([], np.int64))
    json.dumps(chosen.state(), allow_nan=False)
    assert ask(chosen, fleet, [6.0, 5.0, 4.0, 3.0, 2.0, 1.0], cohort=6).quota == 6


def test_fedcs_lets_the_fastest_work_alone_when_nobody_makes_the_deadline() -> None:
    selection = ask(FedCSSelection(deadline_s=0.5), fleet_of([10] * 3), [3.0, 2.0, 1.0], cohort=3)
    assert (selection.rows.tolist(), selection.deadline_s) == ([2], None)


def test_a_tifl_cohort_comes_from_one_tier_of_like_speed() -> None:
    fleet, seconds = fleet_of([10] * 20), np.arange(20.0)
    tiers = {
        tuple(sorted(set((ask(TiFLSelection(), fleet, seconds, cohort=3, seed=s).rows // 4).tolist())))
        for s in range(60)
    }
    assert tiers == {(0,), (1,), (2,), (3,), (4,)}


def test_tifl_ranks_tiers_from_worst_to_best() -> None:
    everybody = np.ones(4, np.bool_)
    # n = 4, D = 4 * 3 / 2 = 6: worst (4 - 1) / 6, then 2 / 6, 1 / 6, 0
    assert ranked(np.array([0.1, 0.9, 0.5, 0.7]), everybody) == pytest.approx([0, 3 / 6, 1 / 6, 2 / 6])
    in_credit = np.array([True, False, True, True])  # n = 3, D = 3: 2 / 3, 1 / 3, 0
    assert ranked(np.array([0.1, 0.9, 0.5, 0.7]), in_credit) == pytest.approx([0, 0, 1 / 3, 2 / 3])
    assert ranked(np.array([0.1, 0.9]), np.array([False, True])).tolist() == [0, 1]


def test_a_tiers_loss_is_the_mean_of_what_its_nodes_reported() -> None:
    fleet = fleet_of([10] * 5, loss=[1.0, 3.0, np.nan, 5.0, np.nan])
    assert tier_losses(fleet, np.array([0, 0, 0, 1, 2]), 3).tolist() == [2.0, 5.0, math.inf]


def test_tifl_adapts_only_when_the_tier_in_use_got_no_better() -> None:
    fleet = fleet_of([10] * 4, loss=[1.0, 1.0, 3.0, 3.0])
    chosen = TiFLSelection(tiers=2, interval=5)
    ask(chosen, fleet, [1.0, 2.0, 8.0, 9.0], cohort=2, round=6)
    assert chosen.state()["probabilities"] == [0.5, 0.5]
    fleet.loss[:] = [0.5, 0.5, 2.0, 2.0]
    ask(chosen, fleet, [1.0, 2.0, 8.0, 9.0], cohort=2, round=11)
    assert chosen.state()["probabilities"] == [0.5, 0.5]
    ask(chosen, fleet, [1.0, 2.0, 8.0, 9.0], cohort=2, round=16)
    assert chosen.state()["probabilities"] == [0.0, 1.0]


def test_a_tier_out_of_credit_rests() -> None:
    fleet, chosen = fleet_of([10] * 4), TiFLSelection(tiers=2, credits=3)
    used = [int(ask(chosen, fleet, [1.0, 2.0, 8.0, 9.0], cohort=2, round=2, seed=s).rows[0]) // 2 for s in range(6)]
    assert sorted(used) == [0, 0, 0, 1, 1, 1]


def test_ours_takes_the_largest_debts_first() -> None:
    fleet = fleet_of([10] * 5, owed=[0.1, -0.1, 0.3, 0.0, 0.2], selections=[1] * 5)
    assert ask(NetworkAwareSelection(), fleet, [1.0] * 5, cohort=3, round=50).rows.tolist() == [2, 4, 0]


def test_ours_tries_everybody_once_first_largest_data_first() -> None:
    fleet = fleet_of([10, 30, 20, 40], owed=[0.5, 0.0, 0.0, 0.0], selections=[1, 0, 0, 0])
    assert ask(NetworkAwareSelection(), fleet, [1.0] * 4, cohort=3, round=2).rows.tolist() == [3, 1, 2]


def test_a_loss_twice_the_median_is_worth_ln_two_shares_and_no_loss_more() -> None:
    fleet = fleet_of([25] * 4, rms_loss=[1.0, 1.0, 2.0, 50.0], selections=[1] * 4)
    # the median is 1.5: the ratios are 2/3, 2/3, 4/3 and, clipped, 2
    expected = 0.25 * np.log([2 / 3, 2 / 3, 4 / 3, 2.0])
    assert priority(fleet, np.arange(4)) == pytest.approx(expected)


def test_who_was_silent_is_left_alone_while_it_rests_unless_nobody_else_is_there() -> None:
    fleet = fleet_of([10, 10], rests_until_s=[50.0, np.nan], selections=[1, 1], owed=[0.4, 0.0])
    assert ask(NetworkAwareSelection(), fleet, [1.0, 1.0], cohort=1).rows.tolist() == [1]
    fleet.online[1] = False
    assert ask(NetworkAwareSelection(), fleet, [1.0, 1.0], cohort=1).rows.tolist() == [0]
    fleet.online[1], fleet.rests_until_s[0] = True, np.nan
    assert ask(NetworkAwareSelection(), fleet, [1.0, 1.0], cohort=1).rows.tolist() == [0]


def test_who_ran_far_ahead_waits_unless_nobody_else_is_there() -> None:
    fleet = fleet_of([10, 10], owed=[-11.0, 11.0], orders=[0, 1], selections=[1, 1])
    assert ask(NetworkAwareSelection(), fleet, [1.0, 1.0], cohort=1, round=9).rows.size == 0
    fleet.orders[1], fleet.online[1] = 0, False
    assert ask(NetworkAwareSelection(), fleet, [1.0, 1.0], cohort=1, round=9).rows.tolist() == [0]
