"""How far a patient's diabetes has got within a year: a regression, so there are no classes and no accuracy."""

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_diabetes
from torch import nn

from hypergpu_fl.task import TorchTask


def rows(which):
    """Rows of the 442, in one random order; inputs of variance 1, targets about so."""
    inputs, targets = load_diabetes(return_X_y=True)
    chosen = np.random.default_rng(0).permutation(len(inputs))[which]
    columns = inputs[chosen] * np.sqrt(len(inputs)), (targets[chosen, None] - 152) / 77
    return tuple(torch.tensor(column, dtype=torch.float32) for column in columns)


class Diabetes(TorchTask):
    def model(self):
        return nn.Linear(10, 1)

    def data(self, partition):
        if partition is None:
            return rows(slice(0, 100))
        return rows(slice(150 + partition, None, self.training.num_nodes))

    def validation(self):
        return rows(slice(100, 150))

    def loss(self, model, batch):
        inputs, targets = batch
        return F.mse_loss(model(inputs), targets)

    def metrics(self, model, batch):
        _, targets = batch
        return {"y": targets.mean(), "yy": targets.square().mean()}

    def summary(self, means):
        return {"r2": 1 - means["loss"] / (means["yy"] - means["y"] ** 2)}
