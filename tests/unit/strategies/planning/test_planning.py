"""Plans by hand, and the laws of a plan."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategy_grid import fleet_of

from strategies.fleet import Fleet
from strategies.planning import FEWEST_STEPS, MOST_STEPS, Compression, FleetPlan, Workload, plan, plan_alike, thinned
from strategies.planning.progress import (
    FIDELITY_EXPONENT,
    FURTHEST_DEADLINE,
    FURTHEST_NODE,
    LONGEST_ROUND,
    balanced_steps,
)
from strategies.planning.timing import FURTHEST_OVERHEAD
from strategies.settings import Settings

LEVELS = [Compression("fat", 1.0, 1.0), Compression("half", 2.0, 0.9), Compression("thin", 20.0, 0.6)]


def known(examples: list[int], uplink_bps: list[float], *, sample_s: float = 0.01) -> Fleet:
    fleet = fleet_of(examples, uplink_bps=uplink_bps, downlink_bps=[2 * bps for bps in uplink_bps])
    fleet.rtt_s[:] = 0.1
    fleet.sample_s[:] = sample_s
    return fleet


def test_a_plan_by_hand() -> None:
    # 1 MB, 10 samples a step: 0.1 s. Node 0 transfers 0.4 + 0.2 + 0.3 s thin, ten times the bytes at half; node 1 a
    # tenth of either. With 9 steps, node 0 makes 0.28 / 1.8 s of progress a second thin, 0.77 / 7.2 s at half;
    # node 1 0.28 / 1.26 s thin, 0.77 / 1.8 s at half, 1 / 2.4 s fat. The transfers then are 0.9 s for both: 9 steps.
    fleet = known([100, 100], [1e6, 1e7])
    made = plan(fleet, Workload(np.array([10, 10]), 10, 1_000_000), LEVELS)
    assert made.local_steps.tolist() == [9, 9]
    assert made.level.tolist() == [2, 1]
    assert made.predicted_s == pytest.approx([1.8, 1.8])
    assert made.compute_s == pytest.approx([0.9, 0.9]) and made.upload_s == pytest.approx([0.4, 0.4])
    assert made.deadline_s == pytest.approx(1.8)
    assert made.of(1).codec == "half" and made.ratio(0) == 20.0


def test_a_slow_node_is_given_the_time_it_needs() -> None:
    fleet = known([100] * 5, [1e5, 1e7, 1e7, 1e7, 1e7])
    made = plan(fleet, Workload(np.full(5, 10), 10, 1_000_000), LEVELS)
    slow, fast = made.of(0), made.of(1)
    assert fast.deadline_s == made.deadline_s < slow.deadline_s == pytest.approx(made.predicted_s[0])


def test_a_link_so_fast_that_bytes_cost_nothing_sends_them_all() -> None:
    fleet = known([100, 100], [1e6, 1e10])
    assert plan(fleet, Workload(np.array([10, 10]), 10, 1_000_000), LEVELS).level.tolist() == [2, 0]


def test_by_itself_the_deadline_lets_four_reachable_nodes_in_five_through() -> None:
    fleet = known([100] * 11, [1e6] * 11)
    fleet.uplink_bps[:] = np.geomspace(1e5, 1e7, 11)
    fleet.online[0] = False
    made = plan(fleet, Workload(np.full(11, 10), 10, 1_000_000), LEVELS)
    assert (made.predicted_s[1:] <= made.deadline_s + 1e-9).sum() == 8


FLEETS = (
    st.lists(st.floats(1e4, 1e9), min_size=1, max_size=20),
    st.floats(1e-5, 1.0),
    st.integers(1, 10**8),
    st.floats(0.0, 1e4),
)


@given(*FLEETS)
def test_all_take_the_same_steps_and_no_other_level_that_keeps_the_deadline_makes_more_progress_a_second(
    uplinks: list[float], sample_s: float, model_bytes: int, deadline_s: float
) -> None:
    """An exhaustive search, one level at a time."""
    fleet = known([50] * len(uplinks), uplinks, sample_s=sample_s)
    work = Workload(np.full(len(uplinks), 5), 10, model_bytes)
    made = plan(fleet, work, LEVELS, deadline_s=deadline_s)
    assert len(set(made.local_steps.tolist())) == 1 and FEWEST_STEPS <= made.local_steps[0] <= MOST_STEPS
    seconds = np.array(
        [
            8 * model_bytes / level.expected_ratio * (1 / fleet.uplink_bps + 1 / fleet.downlink_bps)
            + 3 * fleet.rtt_s
            + made.compute_s
            for level in LEVELS
        ]
    )
    rows = np.arange(len(uplinks))
    np.testing.assert_allclose(made.predicted_s, seconds[made.level, rows])
    rates = np.array([level.fidelity**FIDELITY_EXPONENT for level in LEVELS])[:, None] / seconds
    best = [
        max(
            (i for i in range(3) if i == 2 or not deadline_s or seconds[i, row] <= deadline_s),
            key=lambda i: rates[i, row],
        )
        for row in rows
    ]
    longest = LONGEST_ROUND * seconds[2]
    if deadline_s:
        longest = np.minimum(longest, deadline_s)
    fattest = [min(i for i in range(3) if seconds[i, row] <= longest[row] or i == best[row]) for row in rows]
    near = np.isclose(seconds, longest, rtol=1e-9).any(axis=0)  # a tie may fall either way
    assert (made.level == fattest)[~near].all()


def test_what_flower_itself_costs_is_no_reason_to_fill_a_slow_uplink() -> None:
    # a step takes 0.1 s; thin costs node 0 0.6 s of transfer, half 6 s, node 1 a hundredth of either
    fleet, work = known([100, 100], [1e6, 1e8]), Workload(np.array([10, 10]), 10, 1_000_000)
    fleet.overhead_s[:] = 1000.0
    made = plan(fleet, work, LEVELS)
    assert made.level.tolist() == [0, 0]  # either is a little longer than 1000 s
    fleet.overhead_s[:] = 5.0
    made = plan(fleet, work, LEVELS)
    assert made.level.tolist() == [2, 0] and made.predicted_s[0] > 5.0


@given(transfer_s=st.floats(1e-3, 1e3), step_s=st.floats(1e-3, 1e3))
def test_no_other_number_of_steps_makes_more_progress_a_second(transfer_s: float, step_s: float) -> None:
    """Progress of s steps is their square root; an exhaustive search finds nothing better."""
    best = balanced_steps(np.array([transfer_s]), np.array([step_s]))
    candidates = np.arange(FEWEST_STEPS, MOST_STEPS + 1)
    rates = np.sqrt(candidates) / (transfer_s + candidates * step_s)
    # rounding to whole steps may miss the best integer by one
    assert rates[best - FEWEST_STEPS] >= rates.max() * 0.995


def test_alike_is_the_baseline_for_everybody_without_a_deadline() -> None:
    fleet = known([100, 300], [1e5, 1e7])
    made = plan_alike(fleet, Workload(np.array([10, 30]), 10, 1_000_000), LEVELS)
    assert made.level.tolist() == [0, 0] and made.local_steps.tolist() == [10, 30] and math.isinf(made.deadline_s)
    assert plan_alike(fleet, Workload(np.array([10, 30]), 10, 1000), LEVELS, deadline_s=7.0).deadline_s == 7.0


def test_downloads_are_priced_at_what_they_come_to() -> None:
    fleet, work = known([100], [1e6]), Workload(np.array([10]), 10, 1_000_000)
    assert plan(fleet, work, LEVELS[-1:], down_ratio=1.0).predicted_s == pytest.approx([8 / 20 + 4 + 0.3 + 2.0])
    common = Workload(np.array([10]), 10, 1_000_000, common_bytes=250_000)
    assert plan(fleet, common, LEVELS[-1:]).predicted_s == pytest.approx([8 / 20 + 1 + 4 / 20 + 0.3 + 1.9])
    assert plan_alike(fleet, work, LEVELS, down_ratio=4.0).predicted_s == pytest.approx([8 + 1 + 0.3 + 1.0])


def test_thinning_takes_the_fattest_level_that_sends_no_more_than_the_share_to_keep() -> None:
    assert thinned(LEVELS, "fat", 0.9) == "half"
    assert thinned(LEVELS, "fat", 0.5) == "half"
    assert thinned(LEVELS, "half", 0.5) == "thin"
    assert thinned(LEVELS, "thin", 0.5) == "thin"


def test_steps_that_are_asked_for_are_planned_exactly_and_bounds_are_kept() -> None:
    fleet = known([100, 300], [1e6, 1e7])
    asked = plan(fleet, Workload(np.array([10, 30]), 10, 1_000_000, fixed=True), LEVELS)
    assert asked.local_steps.tolist() == [10, 30]
    assert asked.compute_s == pytest.approx([1.0, 3.0])
    for within, steps in (((1, 4), 4), ((5, 20), 9), ((40, 60), 40)):
        bounded = plan(fleet, Workload(np.array([10, 30]), 10, 1_000_000, within=within), LEVELS)
        assert bounded.local_steps.tolist() == [steps] * 2


@given(st.integers(0, 10**6), st.integers(1, 1000), st.integers(1, 100))
def test_the_passes_asked_for_are_made_whole_and_exceeded_by_less_than_a_batch(
    examples: int, batch_size: int, epochs: int
) -> None:
    (steps,) = Settings(1, epochs=epochs, batch_size=batch_size).base_steps(np.array([examples]))
    batch = max(1, min(batch_size, examples))
    assert steps >= 1
    assert 0 <= steps * batch - epochs * examples < batch or examples == 0


def test_where_nothing_is_asked_for_the_baseline_is_one_pass() -> None:
    examples = np.array([10, 64, 65])
    assert Settings(1).base_steps(examples).tolist() == [1, 2, 3]
    assert Settings(1, baseline_epochs=5).base_steps(examples).tolist() == [5, 10, 15]
    assert Settings(1, local_steps=7).base_steps(examples).tolist() == [7, 7, 7]


def claimed_by_three_of_ten(**columns: float) -> tuple[FleetPlan, FleetPlan]:
    """The plan of ten nodes, and the plan when three of them claim these values."""
    work = Workload(np.full(10, 10), 10, 1_000_000)
    fleet = known([100] * 10, np.geomspace(1e6, 1e7, 10).tolist())
    fleet.overhead_s[:] = np.linspace(4.0, 6.0, 10)
    honest = plan(fleet, work, LEVELS)
    for name, value in columns.items():
        getattr(fleet, name)[7:] = value
    return honest, plan(fleet, work, LEVELS)


@pytest.mark.parametrize(
    "claim",
    [{"sample_s": 1e4}, {"uplink_bps": 1e3, "downlink_bps": 1e3}, {"rtt_s": 1e5}, {"overhead_s": 1e6}],
    ids=lambda claim: next(iter(claim)),
)
def test_what_three_of_ten_claim_makes_a_round_longer_by_a_stated_factor_at_most(claim: dict[str, float]) -> None:
    honest, made = claimed_by_three_of_ten(**claim)
    slowest_s = float(honest.predicted_s.max()) * (FURTHEST_OVERHEAD if "overhead_s" in claim else 1)
    assert made.deadline_s <= FURTHEST_DEADLINE * slowest_s
    assert all(made.of(row).deadline_s <= FURTHEST_NODE * slowest_s for row in range(10))


def test_a_node_a_hundred_times_slower_than_the_median_is_given_all_the_time_it_needs() -> None:
    fleet = known([100] * 10, [1e5] * 3 + [1e7] * 7)
    made = plan(fleet, Workload(np.full(10, 10), 10, 100_000_000, fixed=True), LEVELS[-1:])
    slowness = made.predicted_s[0] / made.predicted_s[9]
    assert 50 < slowness <= FURTHEST_NODE
    assert made.of(0).deadline_s == pytest.approx(made.predicted_s[0])
    assert made.deadline_s == pytest.approx(FURTHEST_DEADLINE * made.predicted_s[9])
