"""Where image sets come from: scikit-learn's digits, torchvision's sets, and a folder of images.

N = images, C H W = channels, height and width. Pixels are uint8 here; their normalisation is kept beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypergpu_fl.task.folder import survey


@dataclass(frozen=True, slots=True)
class Images:
    """Images and their labels; the pixels may be a read-only map of a file."""

    pixels_NCHW: NDArray[np.uint8]
    labels_N: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels_N)

    def take(self, indices: NDArray[np.int64]) -> Images:
        """Copy of some of the images."""
        return Images(self.pixels_NCHW[indices], self.labels_N[indices])


@dataclass(frozen=True, slots=True)
class SourceImages:
    """What a source yields: its images in parts, the class names by label, and notes for the user.

    ``whites`` are those by which grey images of more than 8 bits were scaled, by their kind.
    """

    train: Images
    test: Images
    class_names: tuple[str, ...]
    validation: Images | None = None
    notes: tuple[str, ...] = ()
    whites: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Source:
    """A data set: how to read it, and its pixels' scale.

    ``read`` takes the folder, that of a folder of images ``white`` too, see `hypergpu_fl.task.pixels.read_images`.
    ``files`` must lie under the data root, and ``download`` brings them there. A pixel ``p`` of channel c becomes
    ``(p / white - mean[c]) / std[c]``.
    """

    read: Callable[..., SourceImages]
    white: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    files: tuple[str, ...] = ()
    download: Callable[[Path], None] | None = None
    validation_from: str = "train"


def deal_by_class(labels_N: NDArray[np.int64], share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the indices of the rest and of a stratified ``share``, at random.

    Of every class it is the rounded share, but at least one sample where there are two.
    """
    rng = np.random.default_rng(seed)
    chosen = [np.empty(0, dtype=np.int64)]
    for label in np.unique(labels_N):
        members = rng.permutation(np.flatnonzero(labels_N == label))
        chosen.append(members[: max(round(share * len(members)), min(len(members) - 1, 1))])
    picked = np.sort(np.concatenate(chosen))
    return np.setdiff1d(np.arange(len(labels_N)), picked), picked


def _digits(root: Path) -> SourceImages:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    whole = Images(bunch.images.astype(np.uint8)[:, None], bunch.target.astype(np.int64))
    train, test = deal_by_class(whole.labels_N, 0.2, seed=0)
    return SourceImages(whole.take(train), whole.take(test), tuple(map(str, bunch.target_names)))


def _torchvision(name: str, root: Path, *, download: bool) -> SourceImages:
    import torchvision.datasets

    parts: list[Images] = []
    for is_train in (True, False):
        part: Any = getattr(torchvision.datasets, name)(str(root), train=is_train, download=download)
        pixels = np.asarray(part.data)
        # MNIST and its kin come as (N, H, W), CIFAR-10 as (N, H, W, C).
        pixels = pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)
        parts.append(Images(pixels.astype(np.uint8), np.asarray(part.targets, dtype=np.int64)))
    train, test = parts
    return SourceImages(train, test, tuple(part.classes))


def _from_torchvision(
    name: str, folder: str, files: tuple[str, ...], mean: tuple[float, ...], std: tuple[float, ...]
) -> Source:
    def download(root: Path) -> None:
        _torchvision(name, root, download=True)

    return Source(
        read=lambda root: _torchvision(name, root, download=False),
        white=255,
        mean=mean,
        std=std,
        files=tuple(f"{folder}/{file}" for file in files),
        download=download,
    )


def _folder(root: Path, *, white: float | None = None) -> SourceImages:
    from hypergpu_fl.task.pixels import read_images

    found = survey(root)
    files = [file for part in found.parts.values() for file in part]
    read = read_images(root, [file.name for file in files], white=white)  # all at once: the parts share one scale
    whole = Images(read.pixels_NCHW, np.array([file.label for file in files], dtype=np.int64))
    parts: dict[str, Images] = {}
    begin = 0
    for name, part in found.parts.items():
        parts[name] = whole.take(np.arange(begin, begin := begin + len(part)))
    if "whole" in parts:
        kept, held_out = deal_by_class(whole.labels_N, 0.2, seed=0)
        parts = {"train": whole.take(kept), "test": whole.take(held_out)}
    nothing = whole.take(np.empty(0, dtype=np.int64))  # a server holds test images only
    return SourceImages(
        parts.get("train", nothing),
        parts["test"],
        found.class_names,
        parts.get("validation"),
        notes=found.notes,
        whites=read.whites,
    )


_IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")

SOURCES: dict[str, Source] = {
    "digits": Source(_digits, white=16, mean=(0.3053,), std=(0.3760,)),
    "mnist": _from_torchvision("MNIST", "MNIST/raw", _IDX, (0.1307,), (0.3081,)),
    "fashion_mnist": _from_torchvision("FashionMNIST", "FashionMNIST/raw", _IDX, (0.2860,), (0.3530,)),
    "cifar10": _from_torchvision(
        "CIFAR10", "cifar-10-batches-py", _BATCHES, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    ),
    "folder": Source(_folder, 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), validation_from="test"),
}
