"""The streaming mean against a float64 reference, and robust rules against scipy's and Flower's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, RecordDict
from flwr.serverapp.strategy.multikrum import select_multikrum
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import trim_mean

from strategies.errors import UnknownPolicy
from strategies.model.aggregation import BLOCK, Aggregator, DenseUpdate, StreamingMean
from strategies.model.axpy import COMPILED_FROM, add_scaled
from strategies.model.robust import AGGREGATORS, aggregator
from strategies.model.robust.norm_clipping import NormClipping
from strategies.model.robust.trimmed_mean import TrimmedMean

seeds = st.integers(0, 2**32 - 1)


def updates(seed: int, count: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    deltas_KP = (rng.standard_normal((count, size)) * np.exp(rng.normal(0, 1, (count, 1)))).astype(np.float32)
    return deltas_KP, rng.uniform(1e-3, 1.0, count), rng.integers(1, 40, count)


def fold(rule: Aggregator, deltas_KP: np.ndarray, weights: Sequence[float], steps: Sequence[int]) -> np.ndarray:
    for delta, weight, step in zip(deltas_KP, weights, steps, strict=True):
        rule.add(DenseUpdate(delta), weight=float(weight), steps=int(step), length=1.0)
    return rule.mean()


def reference(deltas_KP: np.ndarray, weights: np.ndarray, steps: np.ndarray) -> np.ndarray:
    p = (weights / weights.sum()).astype(np.float64)
    effective = next(step for step in np.sort(steps) if p[steps <= step].sum() >= 0.5 - 1e-9)
    return effective * ((p / steps) @ deltas_KP.astype(np.float64))


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@given(seeds, st.integers(1, 60), st.integers(1, 3000))
def test_the_mean_is_fednovas_within_a_millionth_in_any_order(seed: int, count: int, size: int) -> None:
    deltas_KP, weights, steps = updates(seed, count, size)
    expected = reference(deltas_KP, weights, steps)
    order = np.random.default_rng(seed + 1).permutation(count)
    first = fold(StreamingMean(size), deltas_KP, weights, steps)
    second = fold(StreamingMean(size), deltas_KP[order], weights[order], steps[order])
    scale = np.linalg.norm(np.abs(deltas_KP).max(axis=0))  # what single precision can be held to where terms cancel
    for found in (first, second):
        assert np.linalg.norm(found - expected) <= 1e-6 * max(np.linalg.norm(expected), scale)


def test_a_hundred_updates_longer_than_a_block_still_agree_within_a_millionth() -> None:
    deltas_KP, weights, steps = updates(0, 100, 2 * BLOCK + 17)
    assert (
        relative(fold(StreamingMean(2 * BLOCK + 17), deltas_KP, weights, steps), reference(deltas_KP, weights, steps))
        < 1e-6
    )


@pytest.mark.parametrize("writable", [True, False])
def test_compiled_and_plain_addition_agree(writable: bool) -> None:
    rng = np.random.default_rng(0)
    vector = rng.standard_normal(COMPILED_FROM + 13).astype(np.float32)
    vector.flags.writeable = writable
    total = rng.standard_normal(vector.size).astype(np.float32)
    expected = total + np.float32(0.3) * vector.astype(np.float64)
    add_scaled(total, vector, 0.3)
    np.testing.assert_allclose(total, expected, rtol=1e-6, atol=1e-6)
    short = np.zeros(10, np.float32)
    add_scaled(short, vector[:10], 0.3)
    np.testing.assert_allclose(short, 0.3 * vector[:10], rtol=1e-6)


def test_with_equal_steps_it_is_the_plain_weighted_mean() -> None:
    deltas_KP, weights, _ = updates(1, 5, 100)
    found = fold(StreamingMean(100), deltas_KP, weights, [7] * 5)
    assert relative(found, np.average(deltas_KP, axis=0, weights=weights)) < 1e-6


@pytest.mark.parametrize("name", ["mean", "norm_clipping"])
def test_one_node_that_is_asked_for_a_thousand_times_the_steps_does_not_lengthen_the_step_of_all(name: str) -> None:
    deltas_KP, _, _ = updates(1, 5, 100)
    found, honest = (
        fold(aggregator(name, 100), deltas_KP, [1.0] * 5, [10, 10, 10, 10, steps]) for steps in (10_000, 10)
    )
    assert np.linalg.norm(found) <= 1.5 * np.linalg.norm(honest)


def test_no_updates_move_nothing() -> None:
    for name in AGGREGATORS:
        assert not aggregator(name, 3).mean().any()


def test_a_dense_update_knows_its_norm_and_whether_it_is_finite() -> None:
    vector = np.random.default_rng(0).standard_normal(3 * BLOCK).astype(np.float32)
    assert DenseUpdate(vector).norm() == pytest.approx(float(np.linalg.norm(vector.astype(np.float64))), rel=1e-12)
    assert DenseUpdate(vector).finite()
    vector[-1] = np.nan
    assert not DenseUpdate(vector).finite()


@given(seeds, st.integers(1, 15), st.integers(1, 300))
def test_the_median_is_numpys(seed: int, count: int, size: int) -> None:
    deltas_KP, weights, _ = updates(seed, count, size)
    found = fold(aggregator("median", size), deltas_KP, weights, [1] * count)
    np.testing.assert_allclose(found, np.median(deltas_KP, axis=0), rtol=1e-6)


@given(seeds, st.integers(1, 15), st.sampled_from([0.0, 0.1, 0.25, 0.4]))
def test_the_trimmed_mean_is_scipys(seed: int, count: int, cut: float) -> None:
    deltas_KP, weights, _ = updates(seed, count, 50)
    found = fold(TrimmedMean(50, cut=cut), deltas_KP, weights, [1] * count)
    np.testing.assert_allclose(found, trim_mean(deltas_KP.astype(np.float64), cut, axis=0), rtol=1e-4, atol=1e-6)


def test_a_cut_of_half_is_refused() -> None:
    with pytest.raises(ValueError, match="0.5"):
        TrimmedMean(3, cut=0.5)


@given(seeds, st.integers(4, 12))
def test_krum_chooses_what_flowers_krum_chooses(seed: int, count: int) -> None:
    deltas_KP, weights, _ = updates(seed, count, 40)
    found = fold(aggregator("krum", 40), deltas_KP, weights, [1] * count)
    contents = [RecordDict({"arrays": ArrayRecord({"w": Array(delta)})}) for delta in deltas_KP]
    (chosen,) = select_multikrum(contents, num_malicious_nodes=int(0.2 * count), num_nodes_to_select=1)
    np.testing.assert_array_equal(found, chosen["arrays"]["w"].numpy())


def test_norm_clipping_is_the_mean_of_updates_cut_to_the_median_norm() -> None:
    deltas_KP, weights, _ = updates(5, 7, 60)
    norms = np.linalg.norm(deltas_KP, axis=1)
    clipped = deltas_KP * np.minimum(1, np.median(norms) / norms)[:, None]
    found = fold(NormClipping(60), deltas_KP, weights, [1] * 7)
    assert relative(found, np.average(clipped, axis=0, weights=weights)) < 1e-6


@pytest.mark.parametrize("name", ["median", "trimmed_mean", "krum", "norm_clipping"])
def test_two_of_eleven_liars_move_no_robust_rule_far(name: str) -> None:
    rng = np.random.default_rng(0)
    honest = (1 + 0.1 * rng.standard_normal((9, 200))).astype(np.float32)
    lies = np.full((2, 200), -1e6, np.float32)
    found = fold(aggregator(name, 200), np.concatenate([lies, honest]), np.ones(11), [3] * 11)
    assert relative(found, np.ones(200)) < 0.5


def test_an_unknown_rule_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(UnknownPolicy, match="did you mean 'median'"):
        aggregator("medain", 3)
    with pytest.raises(UnknownPolicy, match="there are mean"):
        aggregator("xyzzy", 3)


@pytest.mark.parametrize("name", sorted(AGGREGATORS))
@given(st.integers(0, 10**6), st.integers(1, 7))
def test_what_entered_of_each_update_sums_to_the_mean_also_of_shortened_ones(name: str, seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    deltas_KP = rng.standard_normal((count, 300)).astype(np.float32)
    deltas_KP[:, :20] = 1.0  # ties
    weights, steps = (0.1 + rng.random(count)).tolist(), rng.integers(1, 9, count).tolist()
    lengths = rng.choice([1.0, 0.5, 0.1], count).tolist()
    rule, same = aggregator(name, 300), aggregator(name, 300)
    for delta_P, weight, local, length in zip(deltas_KP, weights, steps, lengths, strict=True):
        rule.add(DenseUpdate(delta_P), weight=weight, steps=local, length=length)
        same.add(DenseUpdate(delta_P * np.float32(length)), weight=weight, steps=local, length=1.0)
    mean_P = rule.mean().copy()
    assert np.allclose(mean_P, same.mean(), rtol=1e-4, atol=1e-5)
    total_P = np.zeros(300)
    for index in range(count):
        entered = rule.entered(index)
        total_P += entered.coefficient * (deltas_KP[index] if entered.part_P is None else entered.part_P)
    assert np.allclose(total_P, mean_P, rtol=1e-4, atol=1e-4)
