"""Oort and PyramidFL against numbers worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from strategy_grid import fleet_of, plan_of

from strategies.fleet import Fleet
from strategies.planning import FleetPlan
from strategies.selection import SelectionPolicy
from strategies.selection.oort import OortSelection, Tuning, scores
from strategies.selection.policy import Selection
from strategies.selection.pyramid import PyramidSelection, dropout, extended

ALL_EXPLOIT = Tuning(explore=0.0, explore_least=0.0, overcommit=1.0, percentile=100.0)


def select(
    chosen: SelectionPolicy, fleet: Fleet, plan: FleetPlan, *, cohort: int, round: int, seed: int = 0
) -> Selection:
    rng = np.random.default_rng(seed)
    return chosen.select(fleet, fleet.available(), plan, cohort=cohort, round=round, rng=rng)


def everybody_seen(chosen: SelectionPolicy, fleet: Fleet, round: int = 1) -> None:
    rows = np.arange(len(fleet))
    chosen.closed(fleet, round=round, selected=rows, arrived=rows)


def test_a_score_is_clipped_normalised_utility_plus_temporal_uncertainty() -> None:
    # 0.9 quantile of five is the fifth: no clipping; least = 0.999 * 10, range = 50 - 9.99 = 40.01
    found = scores(np.array([10.0, 20, 30, 40, 50]), np.array([1, 1, 2, 4, 4]), 10, 0.9)
    temporal = [math.sqrt(0.1 * math.log(10) / seen) for seen in (1, 1, 2, 4, 4)]
    assert found == pytest.approx([(u - 9.99) / 40.01 + t for u, t in zip((10, 20, 30, 40, 50), temporal, strict=True)])


def test_utility_above_the_clip_quantile_counts_as_the_quantile() -> None:
    found = scores(np.array([10.0, 20, 1000]), np.array([1, 1, 1]), 1, 0.5)  # clip = second of three
    assert found[1] == found[2] == pytest.approx((20 - 9.99) / (1000 - 9.99))


def test_utility_is_rms_loss_times_samples() -> None:
    fleet, chosen = fleet_of([10, 20], rms_loss=[2.0, 3.0]), OortSelection()
    everybody_seen(chosen, fleet)
    assert chosen.state()["reward"] == [20.0, 60.0]


def test_a_node_tried_in_vain_counts_as_explored_with_the_rounds_mean_utility() -> None:
    fleet, chosen = fleet_of([10, 20, 30], rms_loss=[2.0, 3.0, np.nan]), OortSelection()
    chosen.closed(fleet, round=4, selected=np.array([0, 1, 2]), arrived=np.array([0, 1]))
    assert chosen.state()["reward"] == [20.0, 60.0, 40.0]
    assert chosen.state()["seen"] == [4, 4, 4]


def test_slower_than_preferred_costs_the_square_of_the_ratio() -> None:
    # T is the 30th percentile: index int(10 * 0.3) = 3 of the sorted durations, 4 s; equal utilities
    fleet = fleet_of([10] * 10, rms_loss=[1.0] * 10)
    chosen = OortSelection(Tuning(explore=0.0, explore_least=0.0, overcommit=1.0, cut_off=0.9))
    everybody_seen(chosen, fleet)
    plan = plan_of([1.0, 2, 3, 4, 5, 6, 7, 8, 9, 10])
    # penalties: 1, 1, 1, 1, 0.64, ...: with cut-off 0.9 only the first four stay eligible for a cohort of four
    picked = {int(r) for seed in range(40) for r in select(chosen, fleet, plan, cohort=4, round=5, seed=seed).rows}
    assert picked == {0, 1, 2, 3}


def test_exploitation_draws_in_proportion_to_score_among_all_above_the_cut_off() -> None:
    fleet = fleet_of([10] * 3, rms_loss=[1.0, 2.0, 3.0])
    chosen = OortSelection(ALL_EXPLOIT)
    everybody_seen(chosen, fleet)
    score = scores(np.array([10.0, 20, 30]), np.ones(3, np.int64), 2, 0.9)
    picked = [int(select(chosen, fleet, plan_of([1.0] * 3), cohort=1, round=2, seed=s).rows[0]) for s in range(3000)]
    assert np.bincount(picked, minlength=3) / 3000 == pytest.approx(score / score.sum(), abs=0.03)


def test_the_share_of_exploration_starts_at_nine_tenths_and_decays_to_three() -> None:
    fleet, chosen = fleet_of([10] * 300, rms_loss=[1.0] * 300), OortSelection(Tuning(overcommit=1.0))
    chosen.closed(fleet, round=1, selected=np.arange(100), arrived=np.arange(100))
    plan = plan_of([1.0] * 300)
    explored = int((select(chosen, fleet, plan, cohort=50, round=2).rows >= 100).sum())
    assert explored == int(50 * 0.9 * 0.98)
    for round in range(3, 80):
        rows = select(chosen, fleet, plan, cohort=50, round=round).rows
    assert int((rows >= 100).sum()) == 15 and chosen.state()["explore"] == 0.3


def test_exploration_goes_to_large_data_and_fast_nodes() -> None:
    fleet = fleet_of([100, 90, 80, 1, 1, 1, 1, 1, 1, 1])
    chosen = OortSelection(Tuning(window=1.0, overcommit=1.0, percentile=50.0))
    # index 5 of sorted durations: 1 s; node 0 takes 10 s: 100 / 100 = 1, far behind 90 and 80
    rows = select(chosen, fleet, plan_of([10.0, 1, 1, 1, 1, 1, 1, 1, 1, 1]), cohort=2, round=1).rows
    assert sorted(rows.tolist()) == [1, 2]


@pytest.mark.parametrize(("before", "lately", "percentile"), [(10.0, 10.5, 35.0), (1.0, 9.0, 25.0), (10.0, 13.0, 30.0)])
def test_the_pacer_relaxes_when_utility_is_flat_and_tightens_when_it_jumps(
    before: float, lately: float, percentile: float
) -> None:
    fleet = fleet_of([1] * 4, rms_loss=[1.0] * 4)
    chosen = OortSelection(Tuning(explore=0.0, explore_least=0.0, overcommit=1.0))
    everybody_seen(chosen, fleet)
    state = chosen.state()
    state["exploited_utility"] = [before] * 20 + [lately] * 20
    chosen.restore(state)
    select(chosen, fleet, plan_of([1.0] * 4), cohort=2, round=40)
    assert chosen.state()["percentile"] == percentile
    select(chosen, fleet, plan_of([1.0] * 4), cohort=2, round=40)  # a refill of the same round
    assert chosen.state()["percentile"] == percentile


def test_pyramid_drops_more_of_less_important_updates() -> None:
    # K = 4: 0.1 + rank * 0.5 / 4
    assert dropout(np.array([5.0, 9.0, 1.0, 5.0])) == pytest.approx([0.225, 0.1, 0.475, 0.225])


def test_pyramid_fills_slack_with_whole_steps_at_most_eleven_times_the_planned() -> None:
    # 10 steps in 5 s: 0.5 s a step. Slack 3 s: 6 steps more. Slack 95 s: 190 steps, capped at 100. None: none
    found = extended(np.array([10, 10, 10]), np.array([5.0, 5.0, 5.0]), np.array([97.0, 5.0, 100.0]), 100.0)
    assert found.tolist() == [16, 110, 10]


def test_a_pyramid_round_by_hand() -> None:
    fleet = fleet_of([10, 10, 10], rms_loss=[1.0] * 3, update_norm=[3.0, 2.0, 1.0])
    chosen = PyramidSelection(ALL_EXPLOIT)
    everybody_seen(chosen, fleet)
    plan = plan_of([10.0, 20.0, 40.0], compute_s=[5.0, 5.0, 5.0], upload_s=[4.0, 8.0, 20.0], local_steps=[10, 10, 10])
    selection = select(chosen, fleet, plan, cohort=3, round=2)
    drop = [0.1, 0.1 + 0.5 / 3, 0.1 + 1.0 / 3]
    finish_s = [10 - drop[0] * 4, 20 - drop[1] * 8, 40 - drop[2] * 20]
    assert selection.rows.tolist() == [0, 1, 2] and selection.quota == 3
    assert selection.keep == pytest.approx([1 - d for d in drop])
    assert selection.local_steps.tolist() == [10 + math.floor((finish_s[2] - f) / 0.5) for f in finish_s]


def test_pyramids_standby_nodes_do_the_baselines_work() -> None:
    fleet = fleet_of([10] * 13, rms_loss=[1.0] * 13, update_norm=[1.0] * 13)
    chosen = PyramidSelection()
    everybody_seen(chosen, fleet)
    selection = select(chosen, fleet, plan_of(np.arange(1.0, 14.0)), cohort=10, round=2)
    assert (selection.rows.size, selection.quota) == (13, 10)
    assert selection.local_steps[10:].tolist() == [10] * 3 and selection.keep[10:].tolist() == [1.0] * 3
