"""BatchNorm's statistics and integer buffers have a domain, and a minority of the nodes decides none of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.model.aggregation import DenseUpdate, StreamingMean
from strategies.model.global_model import GlobalModel
from strategies.model.layout import Layout
from strategies.model.payload import RawPayload
from strategies.model.server_optimizer import ServerOptimizer
from strategies.model.statistics import STEPS, Statistics

MODEL = {
    "w": np.zeros(2, np.float32),
    "bn.running_mean": np.zeros(2, np.float32),
    "bn.running_var": np.ones(2, np.float32),
    "bn.num_batches_tracked": np.array(10),
    "out": np.zeros(1, np.float32),
}
TRAINED = MODEL | {"bn.running_mean": np.full(2, 0.5, np.float32), "bn.running_var": np.full(2, 4.0, np.float32)}
LAYOUT = Layout.of(MODEL)


def update(*, mean: float = 0.0, variance: float = 0.0, batches: int = 20, learned: float = 1.0) -> DenseUpdate:
    values = np.array([learned, learned, mean, mean, variance, variance, learned], np.float32)
    return DenseUpdate(values, {"bn.num_batches_tracked": np.array(batches)})


def fresh(start: Any = MODEL, optimizer: ServerOptimizer | None = None) -> GlobalModel:
    model = GlobalModel(LAYOUT, RawPayload(LAYOUT), optimizer or ServerOptimizer(), averaging=False)
    model.start(LAYOUT.flatten(start), LAYOUT.buffers(start))
    return model


def play(model: GlobalModel, updates: Mapping[int, DenseUpdate]) -> dict[str, Any]:
    """One step by these nodes' updates; the model's arrays after it."""
    mean, statistics = StreamingMean(LAYOUT.size), Statistics(LAYOUT)
    for index, (node, each) in enumerate(updates.items()):
        mean.add(each, weight=1.0 + index, steps=1 + index, length=1.0)
        statistics.add(each, node=node, steps=10)
    assert model.step(mean, statistics, version=model.version + 1)
    return {name: array.numpy() for name, array in model.arrays().items()}


def stepped(
    updates: list[DenseUpdate], optimizer: ServerOptimizer | None = None, steps: int = 1, start: Any = MODEL
) -> dict[str, Any]:
    model = fresh(start, optimizer)
    return [play(model, dict(enumerate(updates))) for _ in range(steps)][-1]


def test_statistics_are_the_median_of_the_nodes_whatever_their_weights_and_steps() -> None:
    found = stepped([update(mean=m, variance=v) for m, v in ((1.0, 0.5), (2.0, 0.1), (4.0, 0.3))])
    np.testing.assert_allclose(found["bn.running_mean"], 2.0)
    np.testing.assert_allclose(found["bn.running_var"], 1.3, rtol=1e-6)


@pytest.mark.parametrize("variance", [-5.0, -1e30, 1e30])
def test_one_impossible_variance_among_honest_ones_changes_next_to_nothing(variance: float) -> None:
    honest = [update(mean=0.1 * i, variance=0.1 * i) for i in range(6)]
    found = stepped([*honest, update(mean=-variance, variance=variance)])
    assert (found["bn.running_var"] >= 0).all() and np.abs(found["bn.running_var"] - 1.25).max() < 0.5
    assert np.abs(found["bn.running_mean"]).max() < 1.0


@given(st.lists(st.tuples(*[st.integers(-(2**90), 2**90)] * 2), min_size=1, max_size=5))
def test_no_updates_make_a_variance_negative_or_a_statistic_infinite(
    said: list[tuple[int, int]],
) -> None:
    found = stepped([update(mean=m, variance=v) for m, v in said])
    assert (found["bn.running_var"] >= 0).all()
    assert all(np.isfinite(found[name]).all() for name in found)


@pytest.mark.parametrize("name", ["fedavgm", "fedadam", "fedyogi"])
def test_server_momentum_moves_no_statistic(name: Any) -> None:
    found = stepped([update(mean=1.0, variance=1.0)], ServerOptimizer(name, 0.1), steps=3)
    np.testing.assert_allclose(found["bn.running_mean"], 3.0)
    np.testing.assert_allclose(found["bn.running_var"], 4.0)
    assert found["w"][0] != pytest.approx(3.0)


@pytest.mark.parametrize("hostile", [2, 3])
@given(st.tuples(*[st.floats(-1e30, 1e30)] * 2))
def test_half_of_a_round_and_more_moves_no_statistic_far_from_where_the_model_has_it(
    hostile: int, said: tuple[float, float]
) -> None:
    honest = [update(mean=0.1 * i, variance=0.1 * i) for i in range(2)]
    found = stepped([*honest, *[update(mean=said[0], variance=said[1])] * hostile], start=TRAINED)
    assert (np.abs(found["bn.running_mean"] - 0.5) <= 6.001).all()  # three of the model's deviations
    assert (found["bn.running_var"] >= 4 / 9.001).all() and (found["bn.running_var"] <= 36.001).all()


def at(model: GlobalModel, mean: float) -> DenseUpdate:
    """An update that makes the model's running mean ``mean``."""
    return update(mean=mean - float(model.vector_P[2]))


@given(st.sets(st.integers(0, 9), min_size=3, max_size=3), st.floats(-6e4, 6e4), st.integers(0, 6))
def test_three_nodes_of_ten_move_no_statistic_even_where_a_round_has_no_others(
    hostile: set[int], said: float, present: int
) -> None:
    honest = {node: 0.1 * node for node in range(10) if node not in hostile}
    model = fresh(TRAINED)
    play(model, {node: at(model, honest.get(node, said)) for node in range(10)})
    for _ in range(4):
        found = play(model, {node: at(model, honest.get(node, said)) for node in [*list(honest)[:present], *hostile]})
    assert min(honest.values()) - 1e-3 <= found["bn.running_mean"][0] <= max(honest.values()) + 1e-3


@pytest.mark.parametrize("nodes", [64, 200])
def test_a_minority_that_answers_last_decides_no_large_round(nodes: int) -> None:
    last = nodes - nodes // 3
    model = fresh(TRAINED)
    for _ in range(3):
        found = play(model, {node: at(model, 0.0 if node < last else 6e4) for node in range(nodes)})
    np.testing.assert_allclose(found["bn.running_mean"], 0.0, atol=1e-6)


def test_gross_statistics_of_a_minority_change_nothing_at_all() -> None:
    honest = [update(mean=0.1 * i, variance=0.1 * i) for i in range(7)]
    with_them = stepped([*honest, *[update(mean=6e4, variance=-6e4)] * 3])
    np.testing.assert_array_equal(with_them["bn.running_mean"], stepped(honest)["bn.running_mean"])
    np.testing.assert_array_equal(with_them["bn.running_var"], stepped(honest)["bn.running_var"])


def test_nodes_that_are_gone_have_no_vote_for_long() -> None:
    model = fresh(TRAINED)
    play(model, {node: at(model, 0.0) for node in range(9)})
    for _ in range(STEPS + 1):
        found = play(model, {9: at(model, 1.0)})
    np.testing.assert_allclose(found["bn.running_mean"], 1.0)


def test_a_roll_back_and_a_resumed_run_have_the_votes_that_were_there() -> None:
    model = fresh(TRAINED)
    play(model, {node: at(model, 0.5 + 0.1 * node) for node in range(3)})
    play(model, {node: at(model, 1.0 + 0.1 * node) for node in range(3, 9)})
    model.roll_back(to=1, version=3)
    again = fresh()
    document, vectors = model.state()
    again.restore(json.loads(json.dumps(document)), vectors)
    for each in (model, again):
        np.testing.assert_allclose(play(each, {0: at(each, 0.5)})["bn.running_mean"], 0.6)


def test_a_fresh_models_statistics_become_those_of_data_of_any_scale() -> None:
    found = stepped([update(mean=32_000.0, variance=4e8)] * 3)
    np.testing.assert_allclose(found["bn.running_mean"], 32_000.0)
    np.testing.assert_allclose(found["bn.running_var"], 4e8)


def test_a_mean_without_a_variance_beside_it_is_bounded_too() -> None:
    arrays = {"m.running_mean": np.array([0.0, 50.0], np.float32)}
    layout = Layout.of(arrays)
    statistics = Statistics(layout)
    statistics.add(DenseUpdate(np.array([1e9, -1e9], np.float32)), node=0, steps=1)
    stepped_P = layout.flatten(arrays)
    statistics.replace(stepped_P, layout.flatten(arrays), {})
    assert stepped_P.tolist() == [3.0, -100.0]


def test_a_counter_is_the_median_of_the_updates_and_stays_whole() -> None:
    found = stepped([update(batches=count) for count in (12, 14, 900_000, 13)])
    assert found["bn.num_batches_tracked"] == 13 and found["bn.num_batches_tracked"].dtype == np.int64


@pytest.mark.parametrize("count", [2**62, -(2**63), 2**63 - 1, 21])
def test_a_counter_moves_by_the_steps_that_were_ordered_at_most_and_never_back(count: int) -> None:
    assert stepped([update(batches=count)] * 3)["bn.num_batches_tracked"] == (20 if count > 0 else 10)


@pytest.mark.parametrize("full", [2**63 - 1, 2**63 - 4])
def test_a_counter_that_is_nearly_full_does_not_overflow(full: int) -> None:
    statistics = Statistics(LAYOUT)
    statistics.add(update(batches=2**63 - 1), node=0, steps=1000)
    assert statistics.counted({"bn.num_batches_tracked": np.array(full)})["bn.num_batches_tracked"] == 2**63 - 1


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
def test_a_small_counter_holds_fewer_batches_than_a_round_has_steps(dtype: str) -> None:
    largest = np.iinfo(dtype).max
    statistics = Statistics(LAYOUT)
    said = {"bn.num_batches_tracked": np.array(largest, dtype)}
    statistics.add(DenseUpdate(np.zeros(0, np.float32), said), node=0, steps=100_000)
    assert statistics.counted({"bn.num_batches_tracked": np.array(5, dtype)})["bn.num_batches_tracked"] == largest


@given(st.sampled_from(["int64", "int32", "uint8", "bool"]), st.integers(0, 100), st.integers(0, 255))
def test_no_other_buffer_is_taken_from_nodes(dtype: str, own: int, said: int) -> None:
    known = {"attention.relative_position_index": np.full((2, 2), own % 100).astype(dtype)}
    statistics = Statistics(Layout.of(known))
    foreign = {"attention.relative_position_index": np.full((2, 2), said).astype(dtype)}
    statistics.add(DenseUpdate(np.zeros(0, np.float32), foreign), node=0, steps=10**9)
    assert not statistics.counted(known)


def test_a_roll_back_brings_the_counters_back_too() -> None:
    model = GlobalModel(LAYOUT, RawPayload(LAYOUT), ServerOptimizer(), averaging=False)
    model.start(LAYOUT.flatten(MODEL), LAYOUT.buffers(MODEL))
    mean, statistics = StreamingMean(LAYOUT.size), Statistics(LAYOUT)
    mean.add(update(), weight=1.0, steps=1, length=1.0)
    statistics.add(update(), node=0, steps=10)
    model.step(mean, statistics, version=1)
    document, vectors = model.state()
    again = GlobalModel(LAYOUT, RawPayload(LAYOUT), ServerOptimizer(), averaging=False)
    again.restore(document, vectors)
    for rolled in (model, again):
        assert rolled.buffers["bn.num_batches_tracked"] == 20
        rolled.roll_back(to=0, version=2)
        assert rolled.buffers["bn.num_batches_tracked"] == 10 and rolled.norm == pytest.approx(2**0.5)
