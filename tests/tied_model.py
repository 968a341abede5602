"""A model of somebody's own: one layer used twice, under two names."""

from __future__ import annotations

import torch
from torch import nn


class Tied(nn.Module):
    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.enter = nn.Linear(inputs, 32)
        self.first = nn.Linear(32, 32)
        self.second = self.first
        self.head = nn.Linear(32, classes)

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.enter(images_BCHW.flatten(1)))
        out: torch.Tensor = self.head(self.second(torch.relu(self.first(hidden))))
        return out


def tied(shape: tuple[int, int, int], classes: int) -> nn.Module:
    channels, height, width = shape
    return Tied(channels * height * width, classes)
