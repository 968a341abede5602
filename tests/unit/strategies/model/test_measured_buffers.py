"""What a model measures of its data, besides BatchNorm's statistics, is averaged and not stepped."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hypergpu_fl.task import layout_of
from hypergpu_fl.task.state import arrays_of
from strategies.model.aggregation import DenseUpdate, StreamingMean
from strategies.model.global_model import GlobalModel
from strategies.model.layout import Layout
from strategies.model.payload import RawPayload
from strategies.model.server_optimizer import ServerOptimizer
from strategies.model.statistics import Statistics

ARRAYS = {"w": np.zeros(2, np.float32), "level": np.full(3, 8.0, np.float32), "out": np.zeros(1, np.float32)}
LAYOUT = Layout.of(ARRAYS, measured=["level", "elsewhere"])


def halved(rounds: int, optimizer: ServerOptimizer) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Level and weights after rounds in which every node halves the level and adds one to the weights."""
    model = GlobalModel(LAYOUT, RawPayload(LAYOUT), optimizer, averaging=False)
    model.start(LAYOUT.flatten(ARRAYS), {})
    for version in range(1, rounds + 1):
        mean = StreamingMean(LAYOUT.size)
        for weight in (1.0, 3.0):
            change_P = np.ones(LAYOUT.size, np.float32)
            change_P[2:5] = -model.vector_P[2:5] / 2
            mean.add(DenseUpdate(change_P, {}), weight=weight, steps=1, length=1.0)
        assert model.step(mean, Statistics(LAYOUT), version=version)
        step = model.take_step()
        assert step is not None and np.allclose(step.moved_P[2:5], -(8.0 / 2**version))
    return model.vector_P[2:5], model.vector_P[[0, 1, 5]]


@pytest.mark.parametrize("name", ["fedavg", "fedavgm", "fedadam", "fedyogi"])
def test_a_measured_buffer_is_the_mean_of_the_nodes_under_every_server_optimiser(name: Any) -> None:
    level, weights = halved(6, ServerOptimizer(name, 0.5, 0.9))
    assert level == pytest.approx(8.0 / 2**6)  # momentum would throw it below 0
    assert (weights > 0).all() and weights != pytest.approx(6.0)


def test_measured_names_are_no_part_of_a_layouts_identity() -> None:
    plain = Layout.of(ARRAYS)
    assert plain == LAYOUT and plain.hash == LAYOUT.hash and Layout.of_json(LAYOUT.as_json()) == LAYOUT
    assert LAYOUT.measured_runs == ((2, 5),) and plain.measured_runs == ()


def test_the_measured_arrays_of_a_model_are_its_floating_point_buffers_without_batch_norms() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model.register_buffer("level", torch.ones(3))
    model.register_buffer("table", torch.arange(3))
    model.register_buffer("angles", torch.ones(3), persistent=False)
    assert layout_of(arrays_of(model), model).measured == {"level"}
