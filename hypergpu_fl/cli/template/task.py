"""What is trained: a diagnosis from 30 measurements, learned by hospitals that keep their patients' records.

Replace the methods with your own; `hypergpu task check task:Diagnosis` tells within seconds whether they work.
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_breast_cancer
from torch import nn

from hypergpu_fl.task import TorchTask


class Diagnosis(TorchTask):
    def model(self):
        # Any torch.nn.Module. Only parameters that require a gradient, and buffers, travel.
        width = self.training.options["width"]  # [training.options] in config.toml is yours
        return nn.Sequential(nn.Linear(30, width), nn.ReLU(), nn.Linear(width, 2))

    def data(self, partition):
        # In a simulation, node `partition` of `num_nodes` takes its share of one file. On a real machine, return the
        # data on that machine (self.training.data_root): a tensor, a tuple or dict of tensors, or a torch Dataset.
        inputs, labels = load_breast_cancer(return_X_y=True)
        inputs = torch.tensor((inputs - inputs.mean(0)) / inputs.std(0), dtype=torch.float32)
        labels = torch.tensor(labels)
        if partition is None:  # held out: no node trains on it
            return inputs[::4], labels[::4]
        mine = [row for row in range(len(labels)) if row % 4 and row % self.training.num_nodes == partition]
        return inputs[mine], labels[mine]

    def loss(self, model, batch):
        inputs, labels = batch
        return F.cross_entropy(model(inputs), labels)

    def metrics(self, model, batch):
        # Optional. `training.target` in config.toml may name any of these, or "loss".
        inputs, labels = batch
        return {"accuracy": (model(inputs).argmax(1) == labels).float()}
