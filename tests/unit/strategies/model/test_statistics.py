"""BatchNorm's statistics and integer buffers have a domain, and no single update decides them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.errors import Refused
from strategies.model.aggregation import DenseUpdate, StreamingMean
from strategies.model.global_model import GlobalModel
from strategies.model.layout import Layout
from strategies.model.payload import RawPayload
from strategies.model.server_optimizer import ServerOptimizer
from strategies.model.statistics import Statistics
from strategies.model.validation import check_buffers

MODEL = {
    "w": np.zeros(2, np.float32),
    "bn.running_mean": np.zeros(2, np.float32),
    "bn.running_var": np.ones(2, np.float32),
    "bn.num_batches_tracked": np.array(10),
    "out": np.zeros(1, np.float32),
}
LAYOUT = Layout.of(MODEL)


def update(*, mean: float = 0.0, variance: float = 0.0, batches: int = 20, learned: float = 1.0) -> DenseUpdate:
    values = np.array([learned, learned, mean, mean, variance, variance, learned], np.float32)
    return DenseUpdate(values, {"bn.num_batches_tracked": np.array(batches)})


def stepped(updates: list[DenseUpdate], optimizer: ServerOptimizer | None = None, steps: int = 1) -> dict[str, Any]:
    model = GlobalModel(LAYOUT, RawPayload(LAYOUT), optimizer or ServerOptimizer(), averaging=False)
    model.start(LAYOUT.flatten(MODEL), LAYOUT.buffers(MODEL))
    for version in range(1, steps + 1):
        mean, statistics = StreamingMean(LAYOUT.size), Statistics(LAYOUT)
        for index, each in enumerate(updates):
            mean.add(each, weight=1.0 + index, steps=1 + index)
            statistics.add(each)
        assert model.step(mean, statistics, version=version)
    return {name: array.numpy() for name, array in model.arrays().items()}


def test_statistics_are_the_plain_mean_of_the_updates_whatever_their_weights_and_steps() -> None:
    found = stepped([update(mean=m, variance=v) for m, v in ((1.0, 0.5), (2.0, 0.1), (3.0, 0.3))])
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


def test_a_counter_is_the_median_of_the_updates_and_stays_whole() -> None:
    found = stepped([update(batches=count) for count in (12, 14, 900_000, 13)])
    assert found["bn.num_batches_tracked"] == 13 and found["bn.num_batches_tracked"].dtype == np.int64


@pytest.mark.parametrize("count", [2**62, -(2**63), 10 + 10**6 + 1])
def test_a_counter_that_leaps_is_refused(count: int) -> None:
    with pytest.raises(Refused, match="differs by more than"):
        check_buffers({"n": np.array(count)}, {"n": np.array(10)})


def test_a_roll_back_brings_the_counters_back_too() -> None:
    model = GlobalModel(LAYOUT, RawPayload(LAYOUT), ServerOptimizer(), averaging=False)
    model.start(LAYOUT.flatten(MODEL), LAYOUT.buffers(MODEL))
    mean, statistics = StreamingMean(LAYOUT.size), Statistics(LAYOUT)
    mean.add(update(), weight=1.0, steps=1)
    statistics.add(update())
    model.step(mean, statistics, version=1)
    document, vectors = model.state()
    again = GlobalModel(LAYOUT, RawPayload(LAYOUT), ServerOptimizer(), averaging=False)
    again.restore(document, vectors)
    for rolled in (model, again):
        assert rolled.buffers["bn.num_batches_tracked"] == 20
        rolled.roll_back(version=2)
        assert rolled.buffers["bn.num_batches_tracked"] == 10 and rolled.norm == pytest.approx(2**0.5)
