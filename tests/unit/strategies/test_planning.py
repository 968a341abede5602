"""Plans by hand, and the laws of a plan."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategy_grid import fleet_of

from strategies.payload import Level
from strategies.planning import MAX_STEPS_RATIO, Workload, plan, plan_alike, thinned

LEVELS = [Level("fat", 1.0), Level("half", 2.0), Level("thin", 20.0)]


def known(examples: list[int], uplink_bps: list[float], *, sample_s: float = 0.01):  # type: ignore[no-untyped-def]
    fleet = fleet_of(examples, uplink_bps=uplink_bps, downlink_bps=[2 * bps for bps in uplink_bps])
    fleet.rtt_s[:] = 0.1
    fleet.sample_s[:] = sample_s
    return fleet


def test_a_plan_by_hand() -> None:
    # 1 MB: 8 Mbit up and down. Node 0: 8 + 4 s; node 1: 0.8 + 0.4 s. Ten steps of 10 samples: 1 s; three round trips
    fleet = known([100, 100], [1e6, 1e7])
    work = Workload(np.array([10, 10]), 10, 1_000_000)
    made = plan(fleet, work, LEVELS, deadline_s=8.0)
    assert made.level.tolist() == [1, 0]  # node 0 needs half to stay within 8 s: 6 + 1 + 0.3
    assert made.local_steps.tolist() == [10 + 7, 40]  # 0.7 s of slack; four times the baseline at most
    assert made.predicted_s == pytest.approx([7.3 + 7 * 0.1, 1.2 + 0.3 + 4.0])
    assert made.compute_s == pytest.approx([1.7, 4.0]) and made.upload_s == pytest.approx([4.0, 0.8])
    work_0 = made.of(0)
    assert (work_0.local_steps, work_0.batch_size, work_0.codec, work_0.deadline_s) == (17, 10, "half", 8.0)


def test_by_itself_the_deadline_lets_four_reachable_nodes_in_five_through_at_the_thinnest_level() -> None:
    fleet = known([100] * 11, [1e6] * 11)
    fleet.uplink_bps[:] = np.geomspace(1e5, 1e7, 11)
    fleet.online[0] = False
    made = plan(fleet, Workload(np.full(11, 10), 10, 1_000_000), LEVELS)
    assert (made.predicted_s[1:] <= made.deadline_s + 1e-9).sum() == 8


@given(
    st.lists(st.floats(1e4, 1e9), min_size=1, max_size=20),
    st.floats(1e-5, 1.0),
    st.integers(1, 10**8),
    st.floats(0.0, 1e4),
)
def test_no_node_is_asked_for_less_than_a_step_or_more_than_pays_and_who_can_makes_the_deadline(
    uplinks: list[float], sample_s: float, model_bytes: int, deadline_s: float
) -> None:
    fleet = known([50] * len(uplinks), uplinks, sample_s=sample_s)
    steps = np.full(len(uplinks), 5)
    made = plan(fleet, Workload(steps, 10, model_bytes), LEVELS, deadline_s=deadline_s)
    assert (made.local_steps >= steps).all() and (made.local_steps <= MAX_STEPS_RATIO * steps).all()
    shortest = plan(fleet, Workload(steps, 10, model_bytes), LEVELS[-1:], deadline_s=math.inf, most_steps=1.0)
    can = shortest.predicted_s <= made.deadline_s
    assert (made.predicted_s[can] <= made.deadline_s * (1 + 1e-9)).all()
    assert (made.level[~can] == 2).all()


def test_alike_is_the_baseline_for_everybody_without_a_deadline() -> None:
    fleet = known([100, 300], [1e5, 1e7])
    made = plan_alike(fleet, Workload(np.array([10, 30]), 10, 1_000_000), LEVELS)
    assert made.level.tolist() == [0, 0] and made.local_steps.tolist() == [10, 30] and math.isinf(made.deadline_s)
    assert plan_alike(fleet, Workload(np.array([10, 30]), 10, 1000), LEVELS, deadline_s=7.0).deadline_s == 7.0


def test_a_fixed_downlink_is_priced_at_its_own_ratio() -> None:
    fleet, work = known([100], [1e6]), Workload(np.array([10]), 10, 1_000_000)
    fixed = plan(fleet, work, LEVELS[-1:], deadline_s=math.inf, down_ratio=1.0, most_steps=1.0)
    assert fixed.predicted_s == pytest.approx([8 / 20 + 4 + 1 + 0.3])


def test_thinning_takes_the_fattest_level_that_sends_no_more_than_the_share_to_keep() -> None:
    assert thinned(LEVELS, "fat", 0.9) == "half"
    assert thinned(LEVELS, "fat", 0.5) == "half"
    assert thinned(LEVELS, "half", 0.5) == "thin"
    assert thinned(LEVELS, "thin", 0.5) == "thin"
