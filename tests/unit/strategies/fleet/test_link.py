"""Link estimates against numbers worked by hand, and what is believed of nodes seen rarely or never."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.fleet import Fleet
from strategies.fleet.link import Goodput, LinkEstimate, LinkSample, miss, observe, quality
from strategies.fleet.prior import Spread, believe, effective, faded


def test_round_trip_times_are_smoothed_as_in_rfc_6298() -> None:
    link = observe(LinkEstimate(), LinkSample(rtt_s=0.200))
    assert (link.rtt_s, link.jitter_s) == (0.200, 0.100)  # SRTT = R, RTTVAR = R / 2
    link = observe(link, LinkSample(rtt_s=0.300))
    assert link.jitter_s == pytest.approx(0.75 * 0.100 + 0.25 * 0.100)  # with the old SRTT
    assert link.rtt_s == pytest.approx(0.875 * 0.200 + 0.125 * 0.300)
    link = observe(link, LinkSample(rtt_s=0.100))
    assert link.jitter_s == pytest.approx(0.75 * 0.100 + 0.25 * 0.1125)
    assert link.rtt_s == pytest.approx(0.875 * 0.2125 + 0.125 * 0.100)
    assert link.pessimistic_rtt_s == pytest.approx(link.rtt_s + 4 * link.jitter_s)


def test_the_first_transfer_replaces_the_prior_and_ordinary_ones_are_averaged_in_the_log_domain() -> None:
    goodput = Goodput().observe(10e6)
    assert (goodput.bps, goodput.samples) == (10e6, 1)
    goodput = goodput.observe(12e6)
    assert goodput.bps == pytest.approx(10e6 * (12 / 10) ** 0.3)
    assert goodput.deviation == pytest.approx(0.75 * 0.2 + 0.25 * math.log(1.2))


@given(
    before=st.floats(1e6, 1e9),
    factor=st.sampled_from([20.0, 1 / 20]),
    noise=st.lists(st.floats(-0.15, 0.15), min_size=40, max_size=40),
)
def test_a_link_that_changes_twentyfold_is_known_within_three_rounds(
    before: float, factor: float, noise: list[float]
) -> None:
    goodput = Goodput()
    for z in noise[:37]:
        goodput = goodput.observe(before * math.exp(z))
    for z in noise[37:]:
        goodput = goodput.observe(before * factor * math.exp(z))
    after = before * factor
    assert abs(math.log(goodput.bps / after)) < math.log(1.5)


def test_one_odd_transfer_is_forgotten_as_fast_as_it_was_believed() -> None:
    goodput = Goodput()
    for bps in [10e6] * 20 + [0.5e6] + [10e6] * 3:
        goodput = goodput.observe(bps)
    assert goodput.bps == pytest.approx(10e6, rel=0.4)


@given(st.lists(st.floats(1e3, 1e10), min_size=1, max_size=30))
def test_an_estimate_stays_within_what_was_seen(rates: list[float]) -> None:
    goodput = Goodput()
    for bps in rates:
        goodput = goodput.observe(bps)
    assert min(rates) * (1 - 1e-9) <= goodput.bps <= max(rates) * (1 + 1e-9)
    assert goodput.deviation >= 0.1


def test_delivery_is_the_mean_of_a_beta_posterior_whose_evidence_fades() -> None:
    link = LinkEstimate()
    assert link.delivery == 0.8
    assert miss(link).delivery == pytest.approx(4 / 6)
    assert observe(link, LinkSample()).delivery == pytest.approx(5 / 6)
    for _ in range(200):
        link = miss(link)
    assert link.delivery == pytest.approx(4 / 15)  # ten tries of memory
    for _ in range(200):
        link = observe(link, LinkSample())
    assert link.delivery == pytest.approx(14 / 15)


def test_loss_is_averaged_and_missing_findings_change_nothing() -> None:
    link = observe(LinkEstimate(), LinkSample(loss=0.1))
    assert link.loss == 0.1
    assert observe(link, LinkSample(loss=0.0)).loss == pytest.approx(0.07)
    same = observe(link, LinkSample())
    assert (same.rtt_s, same.uplink, same.loss) == (link.rtt_s, link.uplink, link.loss)


def test_quality_of_the_reference_link_is_a_third() -> None:
    assert quality(delivery=1.0, loss=0.0, rtt_s=0.1, uplink_bps=20e6) == pytest.approx(1 / 3)
    unknown = LinkEstimate()
    assert quality(
        delivery=unknown.delivery, loss=unknown.loss, rtt_s=unknown.pessimistic_rtt_s, uplink_bps=unknown.uplink.bps
    ) == pytest.approx(0.8 / (1 + 3 + 1))


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.floats(1e-6, 1e3), st.floats(1.0, 1e12))
def test_quality_lies_in_zero_to_one_and_never_rises_with_a_worse_link(
    delivery: float, loss: float, rtt_s: float, uplink_bps: float
) -> None:
    best = quality(delivery=delivery, loss=loss, rtt_s=rtt_s, uplink_bps=uplink_bps)
    assert 0 < best <= 1
    assert quality(delivery=delivery, loss=loss, rtt_s=2 * rtt_s, uplink_bps=uplink_bps) <= best
    assert quality(delivery=delivery, loss=loss, rtt_s=rtt_s, uplink_bps=uplink_bps / 2) <= best


def test_shrinkage_by_hand() -> None:
    # truth varies by 1 between nodes, samples by 1 around it: after one sample, halfway; after three, three quarters
    mean, deviation = believe(Spread(0.0, 1.0), np.full(3, 4.0), np.full(3, 1.0), np.array([0.0, 1.0, 3.0]))
    assert mean == pytest.approx([0.0, 2.0, 3.0])
    assert deviation**2 == pytest.approx([1.0, 1.0 + 0.5, 1.0 + 0.25])


def test_a_prior_learns_mean_and_spread_of_the_nodes_seen() -> None:
    logs = np.random.default_rng(0).normal(17.0, 1.4, 2000)
    learned = Spread(12.0, 0.5).learn(logs)
    assert learned.mean == pytest.approx(17.0, abs=0.1) and learned.deviation == pytest.approx(1.4, abs=0.1)
    assert Spread(12.0, 0.5).learn(np.zeros(0)) == Spread(12.0, 0.5)


def test_samples_fade_by_half_in_fifty_rounds_of_absence() -> None:
    assert effective(np.array([3.0, 30.0, 4.0]), faded(np.array([0.0, 0.0, 50.0])), 10).tolist() == [3.0, 10.0, 2.0]


def fleet_with(bps: list[float], *, unseen: int = 1) -> Fleet:
    fleet = Fleet()
    for i in range(len(bps) + unseen):
        fleet.enrol(f"node-{i}", examples=10, sample_s=0.001)
    for row, rate in enumerate(bps):
        for _ in range(5):
            fleet.observe(row, LinkSample(rtt_s=0.05, uplink_bps=rate, downlink_bps=2 * rate))
    fleet.learn_priors()
    fleet.believe(1)
    return fleet


def test_a_new_node_starts_from_what_the_others_are_like_with_all_their_doubt() -> None:
    slow, fast = fleet_with([1e6] * 40), fleet_with([1e8] * 40)
    assert slow.uplink_bps[-1] < 2.5e6 and 2e7 < fast.uplink_bps[-1] < 1e8
    mixed = fleet_with([1e6, 1e8] * 20)
    assert mixed.uplink_bps[-1] < 3e6  # a deviation below the geometric mean of 1e7
    assert mixed.uplink_bps[0] == pytest.approx(1e6, rel=0.3)


def test_who_was_not_seen_for_long_is_believed_ever_less() -> None:
    fleet = fleet_with([1e6] * 40 + [1e8])
    known = float(fleet.uplink_bps[40])
    fleet.last_seen[:40] = 500
    fleet.believe(500)
    assert fleet.uplink_bps[40] < known / 3
    assert fleet.uplink_bps[0] == pytest.approx(1e6, rel=0.3)


def test_pessimism_is_below_the_smoothed_rate_and_shrinks_with_steadiness() -> None:
    fleet = fleet_with([1e7] * 10)
    assert 0.7e7 < fleet.uplink_bps[0] < 1e7


def test_a_fleet_saved_and_restored_believes_the_same() -> None:
    fleet = fleet_with([1e6, 3e6, 1e8], unseen=2)
    fleet.miss(4, round=3)
    fleet.rms_loss[1] = 0.5
    restored = Fleet.restored(json.loads(json.dumps(fleet.state())))
    assert restored.links == fleet.links and restored.names == fleet.names
    for name in ("uplink_bps", "downlink_bps", "rtt_s", "delivery", "quality", "rms_loss", "misses", "online"):
        np.testing.assert_array_equal(getattr(restored, name), getattr(fleet, name), err_msg=name)
    assert len(Fleet.restored(Fleet().state())) == 0
