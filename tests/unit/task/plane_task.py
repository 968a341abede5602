"""A task without classes: a plane through points, and how it is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hypergpu_fl.config import Training
from hypergpu_fl.task import TorchTask, TrainContext, fresh_model

CPU = torch.device("cpu")
TRAINING = Training(learning_rate=0.05, batch_size=8)


def points(samples: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn((samples, 3), generator=generator)
    return inputs, inputs @ torch.tensor([[1.0], [-2.0], [0.5]]) + 0.1 * torch.randn((samples, 1), generator=generator)


class Plane(TorchTask):
    """A regression without classes."""

    form: Callable[[tuple[Tensor, Tensor]], Any] = staticmethod(lambda columns: columns)

    def model(self) -> nn.Module:
        return nn.Linear(3, 1)

    def data(self, partition: int | None) -> Any:
        return self.form(points(40, 99) if partition is None else points(30, partition))

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        inputs, targets = batch.values() if isinstance(batch, dict) else batch
        return F.mse_loss(model(inputs), targets)

    def metrics(self, model: nn.Module, batch: Any) -> Mapping[str, Tensor]:
        _, targets = batch.values() if isinstance(batch, dict) else batch
        return {"y": targets.mean(), "yy": targets.square().flatten()}

    def summary(self, means: Mapping[str, float]) -> Mapping[str, float]:
        return {"r2": 1 - means["loss"] / (means["yy"] - means["y"] ** 2)}


def order(folder: Path, *, steps: int = 5, batch_size: int = 8, seed: int = 3) -> TrainContext:
    return TrainContext(steps=steps, batch_size=batch_size, seed=seed, device=CPU, folder=folder)


def weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])


def trained(task: TorchTask, folder: Path, **changes: int) -> Tensor:
    model = fresh_model(task, 0)
    task.train(model, 0, order(folder, **changes))
    return weights(model)
