"""Image classifiers, sized by the data set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from torch import nn

from hypergpu_fl.errors import TaskError
from hypergpu_fl.task.generators import seeded
from hypergpu_fl.task.names import import_object, unknown
from hypergpu_fl.task.resnet import ResNet18

Shape = tuple[int, int, int]  # channels, height, width
Factory = Callable[..., nn.Module]

# On images with shorter sides, ResNet's first stage would discard three quarters of the pixels twice.
SMALL_IMAGE = 96


def mlp(shape: Shape, classes: int, normalization: str) -> nn.Module:
    """One hidden layer of 128."""
    channels, height, width = shape
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, 128), nn.ReLU(), nn.Linear(128, classes))


def simple_cnn(shape: Shape, classes: int, normalization: str) -> nn.Module:
    """Two 3x3 convolutions of 32 and 64 channels, each halved by max-pooling, then a hidden layer of 128."""
    channels, height, width = shape
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * (height // 4) * (width // 4), 128),
        nn.ReLU(),
        nn.Linear(128, classes),
    )


def resnet18(shape: Shape, classes: int, normalization: str) -> nn.Module:
    """ResNet-18 with the first convolution fitted to the image.

    GroupNorm (32 groups; Wu & He, ECCV 2018) keeps no running statistics, which nodes with unlike data would
    spoil for one another when averaged (Hsieh et al., ICML 2020).
    """

    def norm(features: int) -> nn.Module:
        return nn.BatchNorm2d(features) if normalization == "batch" else nn.GroupNorm(32, features)

    channels, height, width = shape
    return ResNet18(channels, classes, norm, small=min(height, width) < SMALL_IMAGE)


MODELS: dict[str, Factory] = {"mlp": mlp, "simple_cnn": simple_cnn, "resnet18": resnet18}


def build_model(architecture: str, shape: Shape, classes: int, *, normalization: str, seed: int) -> nn.Module:
    """Build a model whose weights depend on nothing but the arguments.

    A user's own ``"pkg.module:name"`` is called as ``name(shape, classes)`` with ``shape = (channels, height,
    width)``, and takes a batch ``(B, C, H, W)`` to logits ``(B, classes)``.

    Raises
    ------
    TaskError
        If the architecture is unknown, or does not make a module.
    """
    if ":" in architecture:
        factory, extra = import_object(architecture, "training.model_architecture"), cast(dict[str, Any], {})
    elif architecture in MODELS:
        factory, extra = MODELS[architecture], {"normalization": normalization}
    else:
        raise unknown("training.model_architecture", architecture, [*MODELS, "pkg.module:name"])
    with seeded(seed):
        model = factory(shape, classes, **extra)
    if not isinstance(model, nn.Module):
        raise TaskError(
            f"training.model_architecture = {architecture!r} made a {type(model).__name__}",
            "return a torch.nn.Module",
        )
    return model
