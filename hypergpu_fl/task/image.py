"""The built-in task: image classification. It is a `TorchTask` with a data path of its own, for speed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hypergpu_fl.config import Training
from hypergpu_fl.errors import TaskError
from hypergpu_fl.task.data import load_images
from hypergpu_fl.task.folder import OPTION
from hypergpu_fl.task.models import build_model
from hypergpu_fl.task.partition import dealt_out
from hypergpu_fl.task.protocol import TrainContext, TrainResult
from hypergpu_fl.task.sources import Images
from hypergpu_fl.task.torch_task import TorchTask
from hypergpu_fl.task.training import EVALUATION_BATCH, ImageResult, Share, evaluate, sample_losses
from hypergpu_fl.task.user_code import user_code

CHANNELS_LAST_WEIGHTS = 1_000_000  # lies between the sizes of the two measured models, see `place`


class ImageTask(TorchTask):
    """A `Task` over an image set and one of the built-in or the user's own models.

    Parameters
    ----------
    training : Training
        Model, data set, split and optimiser.
    cache : Path
        Where prepared data and partitions are kept.
    simulated : bool
        Whether all nodes are on this machine. Then a folder of images is split among them like any data set; on a real
        node, the folder is that node's own share.
    """

    def __init__(self, training: Training, cache: Path, *, simulated: bool = True) -> None:
        white = _white(training.options.get("white"))
        self.images = load_images(training.dataset, training.data_root, cache, white=white)
        self._partition = dealt_out(training, self.images.train.labels_N, cache, simulated=simulated)

    def model(self) -> nn.Module:
        """Fresh model on the CPU; the same weights in every process."""
        return build_model(
            self.training.model_architecture,
            self.images.shape,
            self.images.classes,
            normalization=self.training.normalization,
            seed=self.training.seed,
        )

    def identity(self) -> Mapping[str, str]:
        """See `Task.identity`."""
        return {
            "data set": self.training.dataset,
            "classes": ", ".join(map(_unmistakable, self.images.class_names)),
            "normalisation": self.images.normalization,
        }

    def data(self, partition: int | None) -> tuple[Tensor, Tensor]:
        """A node's images and labels, or the test set's, on the CPU."""
        share = self._upload(self._part("test" if partition is None else partition), False, torch.device("cpu"))
        return share.inputs, share.labels_N

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Cross-entropy of each sample."""
        return sample_losses(model, batch)

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

    def train(self, model: nn.Module, partition: int, context: TrainContext) -> TrainResult:
        """Train in place on a node's share, moving the model to the device."""
        share = self._share(partition, place(model, context.device), context.device)
        return self._fit(model, share, partition, context)

    def evaluate(self, model: nn.Module, *, device: torch.device, partition: int | None = None) -> ImageResult:
        """Evaluate on a node's share, or on the test set."""
        return self._classified(model, device, "test" if partition is None else partition)

    def validate(self, model: nn.Module, *, device: torch.device) -> ImageResult:
        """Evaluate on the validation set."""
        return self._classified(model, device, "validation")

    def gradient(self, model: nn.Module, *, device: torch.device) -> dict[str, NDArray[Any]]:
        """Gradient of the mean loss on the validation set."""
        share = self._share("validation", place(model, device), device)
        return self._gradient(model, share.batches(EVALUATION_BATCH))

    def _classified(self, model: nn.Module, device: torch.device, part: int | str) -> ImageResult:
        share = self._share(part, place(model, device), device)
        with user_code("evaluating the model"):
            return evaluate(model, share, self.images.classes)

    def _known(self, partition: int) -> int:
        if not 0 <= partition < self.training.num_nodes:
            raise TaskError(
                f"there is no partition {partition}: training.num_nodes = {self.training.num_nodes}",
                "give every node a partition-id below training.num_nodes",
            )
        return partition

    def _share(self, part: int | str, channels_last: bool, device: torch.device) -> Share:
        """Share on the device, with images as that model takes them."""
        return self._kept((part, device, channels_last), lambda: self._upload(self._some(part), channels_last, device))

    def _some(self, part: int | str) -> Images:
        """Images of a part that has any."""
        if len(images := self._part(part)):
            return images
        where = f"the {part} set" if isinstance(part, str) else f"the share of node {part}"
        raise TaskError(f"{where} of {self.training.dataset!r} holds no image", "add some for every class")

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


def _unmistakable(name: str) -> str:
    """The name of a class in a list of several, in quotes if it could be taken for two."""
    return json.dumps(name, ensure_ascii=False) if "," in name or '"' in name else name


def _white(given: object) -> float | None:
    """``training.options.white``: how bright white is in grey images of more than 8 bits."""
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given < 2**32:
        raise TaskError(f"{OPTION} = {given!r} is no brightness", "give the value of white, such as 4095")
    return float(given)


def place(model: nn.Module, device: torch.device) -> bool:
    """Move the model to the device; return whether its convolutions are channels-last there.

    On a CPU channels-last pays only for small convolutions, since weights and gradients are reordered in every step:
    without it, a small CNN takes 30 % longer, but ResNet-18 takes 28 % less time on 8x8 pixels and 12 % less on 28x28.
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
