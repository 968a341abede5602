from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypergpu_fl.bench.scenarios import CORRELATED_TASK, Links, slow_accuracy, slow_classes, slow_nodes
from hypergpu_fl.config import Training
from hypergpu_fl.errors import TaskError
from hypergpu_fl.task import load_task
from hypergpu_fl.task.image import ImageTask


@given(seed=st.integers(0, 100), payload_bytes=st.floats(1, 1e9), samples=st.floats(0, 1e4))
def test_links_come_slowest_last_and_from_the_seed_alone(seed: int, payload_bytes: float, samples: float) -> None:
    links = Links("silo").draw(20, payload_bytes=payload_bytes, samples=samples, seed=seed)
    seconds = [
        8 * payload_bytes * (1 / x.uplink_bps + 1 / x.downlink_bps) + samples * x.sample_s + x.rtt_s for x in links
    ]
    assert seconds == sorted(seconds)
    assert links == Links("silo").draw(20, payload_bytes=payload_bytes, samples=samples, seed=seed)


def test_links_come_from_the_published_traces_too(shared_data: Path) -> None:
    trace = Links("devices", shared_data / "links/fedscale_devices.csv", shared_data / "links/wondernetwork_rtt.csv")
    links = trace.draw(100, payload_bytes=45e6, samples=360, seed=0)
    assert len({link.uplink_bps for link in links}) > 50


@pytest.mark.parametrize("seed", [0, 1])
def test_in_the_correlated_scenario_the_slowest_fifth_alone_holds_two_classes_and_nothing_else(seed: int) -> None:
    task = load_task(Training(task=CORRELATED_TASK, num_nodes=20, seed=seed))
    assert isinstance(task, ImageTask)
    held = np.array([task.class_examples(node) for node in range(20)])
    theirs, slow = slow_classes(10, seed), list(slow_nodes(20))
    others = np.setdiff1d(np.arange(10), theirs)
    assert slow == [16, 17, 18, 19]
    assert held[:16, theirs].sum() == 0 and held[16:, others].sum() == 0
    assert held.sum() == len(task.images.train)
    assert (held.sum(axis=1) > 0).all()
    assert [task.examples(node) for node in range(20)] == held.sum(axis=1).tolist()


def test_too_few_nodes_for_a_slowest_fifth_are_refused() -> None:
    with pytest.raises(TaskError, match="no slowest fifth"):
        load_task(Training(task=CORRELATED_TASK, num_nodes=4))


def test_slow_accuracy_weighs_classes_as_the_slow_nodes_hold_them() -> None:
    share = np.array([0.0, 0.25, 0.75])
    assert slow_accuracy((0, 10, 5), (10, 10, 10), share) == pytest.approx(0.25 * 1.0 + 0.75 * 0.5)
    assert slow_accuracy((0, 10, 0), (10, 10, 0), share) == pytest.approx(1.0)  # a class the test set lacks
