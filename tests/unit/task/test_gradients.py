"""Gradients on the validation data: those of the very loss that is measured there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hypergpu_fl.config import Training
from hypergpu_fl.task import TorchTask, differentiable, fresh_model, load_task
from hypergpu_fl.task.protocol import EvalResult, Task
from strategies.model.layout import Layout

CPU = torch.device("cpu")


class Dropping(TorchTask):
    """A net with dropout, BatchNorm, a tied weight and a frozen one; batches of unequal size."""

    def model(self) -> nn.Module:
        net = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 6), nn.Linear(6, 6))
        net[3].weight = net[0].weight
        net[4].weight.requires_grad_(False)
        return net

    def data(self, partition: int | None) -> Any:
        rng = np.random.default_rng(partition or 7)
        return rng.standard_normal((700, 6), dtype=np.float32), rng.standard_normal((700, 6), dtype=np.float32)

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        return F.mse_loss(model(batch[0]), batch[1])


class OtherLoss(Dropping):
    def validate(self, model: nn.Module, *, device: torch.device) -> EvalResult:
        return EvalResult(1, 0.0)


def slope(task: Task, model: nn.Module, direction_P: np.ndarray) -> float:
    layout = Layout.of(task.arrays(model))
    model_P, buffers = layout.flatten(task.arrays(model)), layout.buffers(task.arrays(model))
    losses = []
    for sign in (1, -1):
        task.load(model, layout.restore(model_P + np.float32(sign * 1e-2) * direction_P, buffers))
        losses.append(task.validate(model, device=CPU).loss)
    task.load(model, layout.restore(model_P, buffers))
    return (losses[0] - losses[1]) / 2e-2


@pytest.mark.parametrize(
    "training",
    [
        Training(task="unused:unused", batch_size=16),
        Training(),
        Training(dataset="digits", model_architecture="simple_cnn"),
    ],
)
def test_a_gradient_tells_the_slope_of_the_validation_loss_in_any_direction(training: Training, tmp_path: Any) -> None:
    task: Task = Dropping(training) if training.task else load_task(training, cache=tmp_path)
    found = differentiable(task)
    assert found is not None
    model = fresh_model(task, 0)
    layout = Layout.of(task.arrays(model))
    gradient = found.gradient(model, device=CPU)
    gradient_P, random = np.zeros(layout.size), np.random.default_rng(0)
    direction_P = random.standard_normal(layout.size).astype(np.float32)
    for entry in layout.entries:
        place = slice(entry.offset, entry.offset + entry.size)
        if not entry.is_float:
            continue
        if entry.name in gradient:
            gradient_P[place] = gradient[entry.name].reshape(-1)
        else:
            assert "running" in entry.name
            direction_P[place] = 0
    direction_P /= np.float32(np.linalg.norm(direction_P))
    assert float(gradient_P @ direction_P) == pytest.approx(slope(task, model, direction_P), rel=2e-2, abs=1e-4)


def test_a_task_that_measures_another_loss_than_its_gradients_is_none_that_can_be_priced_by_them() -> None:
    assert differentiable(OtherLoss(Training())) is None


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_gradients_are_summed_wider_than_the_model_computes(kind: torch.dtype) -> None:
    class Narrow(TorchTask):
        def model(self) -> nn.Module:
            return nn.Linear(3, 1, dtype=kind)

        def data(self, partition: int | None) -> Any:
            return torch.full((20_000, 3), 8.0, dtype=kind), torch.zeros(20_000, 1, dtype=kind)

        def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
            return F.mse_loss(model(batch[0]), batch[1] + 4)

    task = Narrow(Training(task="unused:unused", batch_size=100))
    model = fresh_model(task, 0)
    found = task.gradient(model, device=CPU)["weight"]
    model.zero_grad()
    task.loss(model, task.data(None)).backward()
    parameter = next(iter(model.parameters()))
    assert parameter.grad is not None and np.isfinite(found).all()
    np.testing.assert_allclose(found, parameter.grad.double().numpy(), rtol=2e-2)
