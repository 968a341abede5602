"""Our optimisers on the flat model against Flower's strategies of the same names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM, FedYogi

from strategies.model.server_optimizer import Name, ServerOptimizer

START = np.random.default_rng(0).standard_normal(50).astype(np.float32)
FLOWERS: dict[Name, Any] = {
    "fedavg": lambda: FedAvg(),
    "fedavgm": lambda: FedAvgM(server_learning_rate=0.7, server_momentum=0.8),
    "fedadam": lambda: FedAdam(eta=0.05, beta_1=0.8, beta_2=0.99, tau=1e-3),
    "fedyogi": lambda: FedYogi(eta=0.05, beta_1=0.8, beta_2=0.99, tau=1e-3),
}
OURS: dict[Name, ServerOptimizer] = {
    "fedavg": ServerOptimizer("fedavg", 1.0),
    "fedavgm": ServerOptimizer("fedavgm", 0.7, 0.8),
    "fedadam": ServerOptimizer("fedadam", 0.05, 0.8),
    "fedyogi": ServerOptimizer("fedyogi", 0.05, 0.8),
}


def replies(model: np.ndarray) -> list[Message]:
    sent = Message(RecordDict(), dst_node_id=2, message_type="train")
    content = {"arrays": ArrayRecord({"w": Array(model)}), "metrics": MetricRecord({"num-examples": 1})}
    return [Message(RecordDict(content), reply_to=sent)]


@pytest.mark.parametrize("name", FLOWERS)
def test_ten_steps_are_flowers(name: Name) -> None:
    theirs, ours, rng = FLOWERS[name](), OURS[name], np.random.default_rng(1)
    expected = found = START
    for step in range(1, 11):
        delta = rng.standard_normal(50).astype(np.float32)
        current = ArrayRecord({"w": Array(expected)})
        theirs.current_arrays = {"w": expected} if name in ("fedadam", "fedyogi") else current
        record, _ = theirs.aggregate_train(step, replies(expected + delta))
        expected = record["w"].numpy()
        before = found.copy()
        kept = found
        found = ours.step(found, delta.copy())
        np.testing.assert_array_equal(kept, before)  # the old model is left alone
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5)


def test_a_reset_optimiser_starts_over() -> None:
    optimizer = ServerOptimizer("fedadam", 0.1)
    delta = np.ones(50, np.float32)
    first = optimizer.step(START, delta.copy())
    optimizer.step(first, delta.copy())
    optimizer.reset()
    np.testing.assert_array_equal(optimizer.step(START, delta.copy()), first)
