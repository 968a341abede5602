"""Plans by hand, and the laws of a plan."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategy_grid import fleet_of

from strategies.payload import Level
from strategies.planning import (
    FEWEST_STEPS,
    LEVEL_SLACK,
    MOST_STEPS,
    Workload,
    balanced_steps,
    plan,
    plan_alike,
    thinned,
)

LEVELS = [Level("fat", 1.0), Level("half", 2.0), Level("thin", 20.0)]


def known(examples: list[int], uplink_bps: list[float], *, sample_s: float = 0.01):  # type: ignore[no-untyped-def]
    fleet = fleet_of(examples, uplink_bps=uplink_bps, downlink_bps=[2 * bps for bps in uplink_bps])
    fleet.rtt_s[:] = 0.1
    fleet.sample_s[:] = sample_s
    return fleet


def test_a_plan_by_hand() -> None:
    # 1 MB, 10 samples a step: 0.1 s. At the thinnest level node 0 transfers 0.4 + 0.2 + 0.3 s, node 1 a tenth of the
    # bytes: 0.04 + 0.02 + 0.3 s. The mean of 0.63 s is 6 steps' time.
    fleet = known([100, 100], [1e6, 1e7])
    made = plan(fleet, Workload(np.array([10, 10]), 10, 1_000_000), LEVELS)
    assert made.local_steps.tolist() == [6, 6]
    assert made.level.tolist() == [
        2,
        2,
    ]  # half the bytes would be 6 s and 0.6 s, a quarter of a round is 0.375 s, 0.24 s
    assert made.predicted_s == pytest.approx([1.5, 0.96])
    assert made.compute_s == pytest.approx([0.6, 0.6]) and made.upload_s == pytest.approx([0.4, 0.04])
    assert made.deadline_s == pytest.approx(0.96 + 0.8 * 0.54)
    slow, fast = made.of(0), made.of(1)
    assert (fast.local_steps, fast.batch_size, fast.codec) == (6, 10, "thin")
    assert fast.deadline_s == made.deadline_s and slow.deadline_s == pytest.approx(1.5)  # as long as it needs


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
def test_all_take_the_same_steps_and_nobody_waits_long_for_bytes_that_a_thinner_level_would_save(
    uplinks: list[float], sample_s: float, model_bytes: int, deadline_s: float
) -> None:
    fleet = known([50] * len(uplinks), uplinks, sample_s=sample_s)
    work = Workload(np.full(len(uplinks), 5), 10, model_bytes)
    made = plan(fleet, work, LEVELS, deadline_s=deadline_s)
    assert len(set(made.local_steps.tolist())) == 1 and FEWEST_STEPS <= made.local_steps[0] <= MOST_STEPS
    thin = plan(fleet, work, LEVELS[-1:], deadline_s=deadline_s)
    assert (made.local_steps == thin.local_steps).all()
    assert (made.predicted_s <= (1 + LEVEL_SLACK) * thin.predicted_s * (1 + 1e-9)).all()
    if deadline_s:
        can = thin.predicted_s <= deadline_s
        assert (made.predicted_s[can] <= deadline_s * (1 + 1e-9)).all()
        assert (made.predicted_s[~can] == thin.predicted_s[~can]).all()


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
    assert plan_alike(fleet, work, LEVELS, down_ratio=4.0).predicted_s == pytest.approx([8 + 1 + 0.3 + 1.0])


def test_thinning_takes_the_fattest_level_that_sends_no_more_than_the_share_to_keep() -> None:
    assert thinned(LEVELS, "fat", 0.9) == "half"
    assert thinned(LEVELS, "fat", 0.5) == "half"
    assert thinned(LEVELS, "half", 0.5) == "thin"
    assert thinned(LEVELS, "thin", 0.5) == "thin"
