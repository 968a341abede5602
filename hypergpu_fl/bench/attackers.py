"""Nodes that want pay without work, or for harm: the built-in task with one node that cheats."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import nn

from hypergpu_fl.config import System, Training, runs_root
from hypergpu_fl.task.image import ImageTask
from hypergpu_fl.task.protocol import TrainContext, TrainResult
from hypergpu_fl.task.training import Share

ATTACKS: Final = ("none", "zero", "noise", "sign_flip", "label_flip", "public", "copy", "examples")
COPY_NOISE: Final = 0.05  # times the copied update's norm
EXAGGERATION: Final = 1000  # times the examples that the attacker has
_NO_WORK: Final = TrainResult(1, 1, 1.0, 1.0, 0.0)


class AttackedTask(ImageTask):
    """The task of a run whose node ``options["attacker"]`` does what ``options["attack"]`` says, one of `ATTACKS`.

    ``zero`` sends no change, ``noise`` sends a random change with the norm of honest work, ``sign_flip`` sends the
    opposite of honest work, and ``label_flip`` trains on wrong labels. ``public`` sends the model's movement since the
    attacker's last order, ``copy`` sends the last update of the next node with noise added, and ``examples`` claims a
    thousand times the examples it has.
    """

    def __init__(self, training: Training) -> None:
        super().__init__(training, runs_root(System(), {}) / ".cache")
        self._attack = str(training.options["attack"])
        self._attacker = int(training.options["attacker"])
        self._last: dict[int, list[torch.Tensor]] = {}
        self._seen: list[torch.Tensor] | None = None

    def examples(self, partition: int) -> int:
        """Size of a node's share, or what it claims."""
        claimed = EXAGGERATION if self._attack == "examples" and partition == self._attacker else 1
        return claimed * super().examples(partition)

    def train(self, model: nn.Module, partition: int, context: TrainContext) -> TrainResult:
        """Train in place, or cheat."""
        before = values(model)
        if partition != self._attacker:
            result = super().train(model, partition, context)
            self._last[partition] = [new - old for new, old in zip(values(model), before, strict=True)]
            return result
        return self._cheat(model, partition, context, before)

    def _cheat(
        self, model: nn.Module, partition: int, context: TrainContext, before: list[torch.Tensor]
    ) -> TrainResult:
        random = torch.Generator().manual_seed(context.seed)
        if self._attack == "zero":
            return _NO_WORK
        if self._attack == "public":
            seen, self._seen = self._seen, before
            move(model, before, [] if seen is None else [now - then for now, then in zip(before, seen, strict=True)])
            return _NO_WORK
        if self._attack == "copy":
            copied = self._last.get((partition + 1) % self.training.num_nodes, [])
            move(model, before, noisy(copied, COPY_NOISE * norm(copied), random) if copied else [])
            return _NO_WORK
        result = super().train(model, partition, context)
        moved = [new - old for new, old in zip(values(model), before, strict=True)]
        if self._attack == "noise":
            move(model, before, noisy([torch.zeros_like(part) for part in moved], norm(moved), random))
        elif self._attack == "sign_flip":
            move(model, before, [-part for part in moved])
        return result

    def _share(self, part: int | str, channels_last: bool, device: torch.device) -> Share:
        share = super()._share(part, channels_last, device)
        if self._attack == "label_flip" and part == self._attacker:
            return Share(share.inputs, (share.labels_N + 1) % self.images.classes, share.channels_last)
        return share


def values(model: nn.Module) -> list[torch.Tensor]:
    """Copies of the model's parameters."""
    return [parameter.detach().clone() for parameter in model.parameters()]


def move(model: nn.Module, before: list[torch.Tensor], moved: list[torch.Tensor]) -> None:
    """Set the model's parameters to ``before`` plus ``moved``; an empty ``moved`` adds nothing."""
    with torch.no_grad():
        for place, parameter in enumerate(model.parameters()):
            parameter.copy_(before[place] + moved[place] if moved else before[place])


def norm(parts: list[torch.Tensor]) -> float:
    """L2 norm over all parts."""
    return float(np.sqrt(sum(float(part.double().square().sum()) for part in parts)))


def noisy(parts: list[torch.Tensor], length: float, random: torch.Generator) -> list[torch.Tensor]:
    """``parts`` plus Gaussian noise whose norm is ``length``."""
    noise = [torch.randn(part.shape, generator=random) for part in parts]
    scale = length / max(norm(noise), 1e-30)
    return [part + scale * more for part, more in zip(parts, noise, strict=True)]
