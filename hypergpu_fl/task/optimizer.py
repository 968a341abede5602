"""The optimiser that a node runs, as the configuration names it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.sgd import sgd


@dataclass(frozen=True, slots=True)
class Optimizer:
    """Which optimiser a node runs; its state starts afresh every round."""

    name: str
    learning_rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0

    def start(self, parameters: list[nn.Parameter]) -> Callable[[], None]:
        """Fresh optimiser, as the function that makes one step from the parameters' gradients.

        Parameters without a gradient stay as they are. Torch's functional forms are used, because the hooks around
        ``Optimizer.step`` take longer than a small model's step, and creating an ``Optimizer`` imports torch's
        compiler, 2 s in every message's process.
        """
        return self._start_sgd(parameters) if self.name == "sgd" else self._start_adam(parameters)

    def _start_sgd(self, parameters: list[nn.Parameter]) -> Callable[[], None]:
        fused = _can_fuse(parameters)
        velocity: list[Tensor | None] = [None] * len(parameters)

        @torch.no_grad()
        def step() -> None:
            used = [i for i, parameter in enumerate(parameters) if parameter.grad is not None]
            moved = [velocity[i] for i in used]
            sgd(
                [parameters[i] for i in used],
                [gradient for parameter in parameters if (gradient := parameter.grad) is not None],
                moved,
                lr=self.learning_rate,
                momentum=self.momentum,
                weight_decay=self.weight_decay,
                dampening=0.0,
                nesterov=False,
                maximize=False,
                fused=fused,
            )
            for i, buffer in zip(used, moved, strict=True):
                velocity[i] = buffer

        return step

    def _start_adam(self, parameters: list[nn.Parameter]) -> Callable[[], None]:
        fused = _can_fuse(parameters)
        means, squares = ([torch.zeros_like(p, requires_grad=False) for p in parameters] for _ in range(2))
        counts = [torch.zeros((), device=p.device if fused else "cpu") for p in parameters]

        @torch.no_grad()
        def step() -> None:
            used = [i for i, parameter in enumerate(parameters) if parameter.grad is not None]
            adam(
                [parameters[i] for i in used],
                [gradient for parameter in parameters if (gradient := parameter.grad) is not None],
                [means[i] for i in used],
                [squares[i] for i in used],
                [],
                [counts[i] for i in used],
                fused=fused,
                decoupled_weight_decay=self.name == "adamw",
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=self.learning_rate,
                weight_decay=self.weight_decay,
                eps=1e-8,
                maximize=False,
            )

        return step


def _can_fuse(parameters: list[nn.Parameter]) -> bool:
    """Whether torch has the optimiser's step as one kernel there, with the same result in half the time."""
    return all(parameter.device.type in ("cpu", "cuda") for parameter in parameters)
