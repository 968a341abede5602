"""A task that a test makes faulty, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hypergpu_fl.config import Training
from hypergpu_fl.errors import TaskError
from hypergpu_fl.task import TorchTask, fresh_model
from hypergpu_fl.task.trial import try_task

CPU = torch.device("cpu")


class Wrapped(nn.Module):
    """A classifier whose output is changed."""

    def __init__(self, change: Callable[[Tensor], Any], classes: int = 3) -> None:
        super().__init__()
        self.layer, self.change = nn.Linear(4, classes), change

    def forward(self, inputs: Tensor) -> Any:
        return self.change(self.layer(inputs.flatten(1)[:, :4]))


class Classes(TorchTask):
    make: Callable[[], nn.Module]

    def model(self) -> nn.Module:
        return self.make()

    def data(self, partition: int | None) -> Any:
        return torch.ones(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])

    def loss(self, model: nn.Module, batch: Any) -> Any:
        return F.cross_entropy(model(batch[0]), batch[1])


def tried(make: Callable[[], object], loss: Callable[..., Any] | None = None, **changes: Any) -> TaskError:
    parts = {"make": staticmethod(make), **({"loss": loss} if loss else {}), **changes}
    task = type("Tried", (Classes,), parts)(Training())
    with pytest.raises(TaskError) as caught:
        try_task(task, fresh_model(task, 0), 0, device=CPU, batch_size=6)
    return caught.value
