"""The built-in task: image classification."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hypergpu_fl.config import Training
from hypergpu_fl.errors import TaskError
from hypergpu_fl.task import EvalResult, TrainResult
from hypergpu_fl.task.data import load_images
from hypergpu_fl.task.models import build_model
from hypergpu_fl.task.partition import dealt_out
from hypergpu_fl.task.sources import Images
from hypergpu_fl.task.training import Optimizer, Share, evaluate, train

RESIDENT_BYTES = 1 << 30
CHANNELS_LAST_WEIGHTS = 1_000_000  # between the two models that were measured, see `place`


class ImageTask:
    """A `Task` over an image set and one of the built-in or the user's own models.

    Parameters
    ----------
    training : Training
        Model, data set, split and optimiser.
    cache : Path
        Where prepared data and partitions are kept.
    simulated : bool
        Whether all nodes are on this machine. Then a folder is dealt out to them as any data set is; on a real node
        it is that node's own.
    """

    def __init__(self, training: Training, cache: Path, *, simulated: bool = True) -> None:
        self._training = training
        self.images = load_images(training.dataset, training.data_root, cache)
        self._partition = dealt_out(training, self.images.train.labels_N, cache, simulated=simulated)
        self._optimizer = Optimizer(
            training.optimizer, training.learning_rate, training.momentum, training.weight_decay
        )
        self._resident: OrderedDict[tuple[int | str, torch.device, bool], Share] = OrderedDict()

    def model(self) -> nn.Module:
        """Fresh model on the CPU; the same weights in every process."""
        return build_model(
            self._training.model_architecture,
            self.images.shape,
            self.images.classes,
            normalization=self._training.normalization,
            seed=self._training.seed,
        )

    def arrays(self, model: nn.Module) -> dict[str, NDArray[Any]]:
        """Copy of the model's state: floats as float32, order stable, a tensor shared by two names once."""
        return {
            name: (
                tensor.detach()
                .to("cpu", torch.float32 if tensor.is_floating_point() else None, copy=True)
                .contiguous()
                .numpy()
            )
            for name, tensor in _state(model).items()
        }

    def load(self, model: nn.Module, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Overwrite the model's state; the inverse of `arrays`."""
        state = _state(model)
        if state.keys() != arrays.keys():
            odd = sorted(state.keys() ^ arrays.keys())
            raise TaskError(f"arrays do not fit the model: {odd[0]!r} is on one side only", "train the model sent")
        with torch.no_grad():
            for name, tensor in state.items():
                array = arrays[name]
                if tuple(tensor.shape) != array.shape:
                    raise TaskError(
                        f"array {name!r} has shape {array.shape}, the model's is {tuple(tensor.shape)}",
                        "use the same model on every node",
                    )
                tensor.copy_(torch.from_numpy(np.require(array, requirements="W")))

    def examples(self, partition: int) -> int:
        """Size of a node's share, without loading it."""
        if self._partition is None:
            return len(self.images.train)
        return self._partition.size(self._known(partition))

    def class_examples(self, partition: int) -> tuple[int, ...]:
        """Count of a node's samples of each class."""
        labels = self.images.train.labels_N
        if self._partition is not None:
            labels = labels[self._partition.indices(self._known(partition))]
        return tuple(np.bincount(labels, minlength=self.images.classes).tolist())

    def train(
        self, model: nn.Module, partition: int, *, steps: int, batch_size: int, seed: int, device: torch.device
    ) -> TrainResult:
        """Train in place on a node's share, moving the model to the device."""
        share = self._share(partition, place(model, device), device)
        return train(model, share, self._optimizer, steps=steps, batch_size=batch_size, seed=(seed, partition))

    def evaluate(self, model: nn.Module, *, device: torch.device, partition: int | None = None) -> EvalResult:
        """Evaluate on a node's share, or on the test set."""
        part = "test" if partition is None else partition
        return evaluate(model, self._share(part, place(model, device), device), self.images.classes)

    def validate(self, model: nn.Module, *, device: torch.device) -> EvalResult:
        """Evaluate on the validation set."""
        return evaluate(model, self._share("validation", place(model, device), device), self.images.classes)

    def _known(self, partition: int) -> int:
        if not 0 <= partition < self._training.num_nodes:
            raise TaskError(
                f"there is no partition {partition}: training.num_nodes = {self._training.num_nodes}",
                "give every node a partition-id below training.num_nodes",
            )
        return partition

    def _share(self, part: int | str, channels_last: bool, device: torch.device) -> Share:
        """Share on the device; those used last stay there, up to ``RESIDENT_BYTES``."""
        key = (part, device, channels_last)
        if key in self._resident:
            self._resident.move_to_end(key)
            return self._resident[key]
        if not len(images := self._part(part)):
            where = f"the {part} set" if isinstance(part, str) else f"the share of node {part}"
            raise TaskError(f"{where} of {self._training.dataset!r} holds no image", "add some for every class")
        share = self._resident[key] = self._upload(images, channels_last, device)
        held = sum(other.inputs.nbytes for other in self._resident.values())
        while held > RESIDENT_BYTES and len(self._resident) > 1:
            held -= self._resident.popitem(last=False)[1].inputs.nbytes
        return share

    def _part(self, part: int | str) -> Images:
        if isinstance(part, str):
            return self.images.test if part == "test" else self.images.validation
        if self._partition is None:
            return self.images.train
        return self.images.train.take(self._partition.indices(self._known(part)))

    def _upload(self, images: Images, channels_last: bool, device: torch.device) -> Share:
        pixels = torch.from_numpy(np.array(images.pixels_NCHW)).to(device)
        channels = (1, -1, 1, 1)
        std = torch.tensor(self.images.std, device=device).view(channels)
        mean = torch.tensor(self.images.mean, device=device).view(channels)
        inputs = (pixels.float() / self.images.white - mean) / std
        if channels_last:
            inputs = inputs.permute(0, 2, 3, 1).contiguous()
        return Share(inputs, torch.from_numpy(np.array(images.labels_N)).to(device), channels_last)


def _state(model: nn.Module) -> dict[str, torch.Tensor]:
    """State of the model without the second names of tied tensors."""
    first: dict[int, str] = {}
    state = model.state_dict(keep_vars=True)
    return {name: tensor for name, tensor in state.items() if first.setdefault(id(tensor), name) == name}


def place(model: nn.Module, device: torch.device) -> bool:
    """Move the model to the device; whether its convolutions are channels-last there.

    On a CPU that pays for small ones alone, for their weights and gradients are reordered in every step: a small CNN
    takes 30 % longer without it, ResNet-18 takes 28 % less time on images of 8x8 pixels and 12 % less on 28x28.
    """
    kernels = [module.weight for module in model.modules() if isinstance(module, nn.Conv2d)]
    small = sum(kernel.numel() for kernel in kernels) < CHANNELS_LAST_WEIGHTS
    channels_last = bool(kernels) and (small or device.type != "cpu")
    wanted = torch.channels_last if channels_last else torch.contiguous_format
    if not all(kernel.is_contiguous(memory_format=wanted) for kernel in kernels):
        model.to(memory_format=wanted)
    if any(parameter.device != device for parameter in model.parameters()):
        model.to(device)
    return channels_last
