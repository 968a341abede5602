from __future__ import annotations

import dataclasses
import os
import pickle
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from hypergpu_fl.errors import TaskError
from hypergpu_fl.task.data import load_images
from hypergpu_fl.task.sources import SOURCES, Images, SourceImages, deal_by_class

CLASSES = ("cat", "dog")


def write_idx(file: Path, array: np.ndarray) -> None:
    """The IDX format: two zero bytes, the type (8 = uint8), the rank, and the sizes in big-endian order."""
    file.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    file.write_bytes(header + array.astype(np.uint8).tobytes())


def write_mnist(root: Path, name: str = "MNIST", seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    for part, count in (("train", 200), ("t10k", 50)):
        write_idx(root / name / "raw" / f"{part}-images-idx3-ubyte", rng.integers(256, size=(count, 28, 28)))
        write_idx(root / name / "raw" / f"{part}-labels-idx1-ubyte", np.arange(count) % 10)


def write_folder(root: Path, per_class: int = 10) -> None:
    for label, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for number in range(per_class):
            colour = (200 * label, number, 30)
            Image.new("RGB", (20 + number, 30), colour).save(root / name / f"{number}.png")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send every request to a port where nothing listens."""
    monkeypatch.setattr(urllib.request, "_opener", None)  # it keeps the proxies of its first use
    for scheme in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(scheme, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")


def fingerprints(images: Images) -> list[bytes]:
    return [
        pixels.tobytes() + bytes([label]) for pixels, label in zip(images.pixels_NCHW, images.labels_N, strict=True)
    ]


def test_the_digits_are_scikit_learns_in_three_parts_without_overlap(tmp_path: Path) -> None:
    images = load_images("digits", "", tmp_path)
    bunch = load_digits()
    whole = sorted(
        pixels.astype(np.uint8).tobytes() + bytes([label])
        for pixels, label in zip(bunch.images, bunch.target, strict=True)
    )
    assert sorted(fingerprints(images.train) + fingerprints(images.validation) + fingerprints(images.test)) == whole
    assert (images.shape, images.classes) == ((1, 8, 8), 10)
    assert [len(part) for part in (images.train, images.validation, images.test)] == [1295, 143, 359]
    for part in (images.train, images.validation, images.test):
        share = np.bincount(part.labels_N) / len(part)
        assert np.abs(share - np.bincount(bunch.target) / len(bunch.target)).max() < 0.02


@pytest.mark.parametrize(("dataset", "name"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_sets_in_idx_files_are_read_as_they_lie(dataset: str, name: str, tmp_path: Path) -> None:
    write_mnist(tmp_path / "data", name)
    images = load_images(dataset, str(tmp_path / "data"), tmp_path / "cache")
    assert (images.shape, images.classes) == ((1, 28, 28), 10)
    assert [len(part) for part in (images.train, images.validation, images.test)] == [180, 20, 50]
    stored = np.frombuffer((tmp_path / "data" / name / "raw" / "t10k-images-idx3-ubyte").read_bytes()[16:], np.uint8)
    assert np.array_equal(images.test.pixels_NCHW, stored.reshape(50, 1, 28, 28))


def test_the_real_mnist_is_read(shared_data: Path, tmp_path: Path) -> None:
    images = load_images("mnist", str(shared_data), tmp_path)
    assert [len(part) for part in (images.train, images.validation, images.test)] == [
        7199,
        801,
        2000,
    ]  # a tenth of every class, rounded
    scaled = images.train.pixels_NCHW / images.white
    assert scaled.mean() == pytest.approx(images.mean[0], abs=0.01)
    assert scaled.std() == pytest.approx(images.std[0], abs=0.01)


def test_cifar_is_read_with_channels_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.datasets.cifar as cifar

    monkeypatch.setattr(cifar, "check_integrity", lambda file, md5=None: True)  # the real sums are of the real set
    rng = np.random.default_rng(0)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rows = {
        name: rng.integers(256, size=(20, 3072), dtype=np.uint8)
        for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    }
    for name, data in rows.items():
        (folder / name).write_bytes(pickle.dumps({"data": data, "labels": [i % 10 for i in range(20)]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    images = load_images("cifar10", str(tmp_path), tmp_path / "cache")
    assert images.shape == (3, 32, 32)
    assert np.array_equal(images.test.pixels_NCHW, rows["test_batch"].reshape(20, 3, 32, 32))


@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist", "cifar10"])
@pytest.mark.usefixtures("offline")
def test_a_missing_set_without_network_is_refused_and_its_files_are_named(dataset: str, tmp_path: Path) -> None:
    with pytest.raises(TaskError) as caught:
        load_images(dataset, str(tmp_path), tmp_path / "cache")
    assert str(tmp_path) in caught.value.cause
    assert all(file in caught.value.cause for file in SOURCES[dataset].files)
    assert "training.data_root" in caught.value.remedy


def test_a_torn_set_is_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    file = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(TaskError, match="cannot be read"):
        load_images("mnist", str(tmp_path), tmp_path / "cache")


def test_an_unknown_set_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(TaskError) as caught:
        load_images("minst", "", tmp_path)
    assert "did you mean 'mnist'" in caught.value.remedy


def test_prepared_data_is_mapped_and_its_source_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_images("digits", "", tmp_path)
    never = dataclasses.replace(SOURCES["digits"], read=lambda root: pytest.fail("read again"))
    monkeypatch.setitem(SOURCES, "digits", never)
    again = load_images("digits", "", tmp_path)
    assert isinstance(again.train.pixels_NCHW, np.memmap)
    assert fingerprints(first.train) == fingerprints(again.train)


def test_of_two_processes_that_prepare_a_set_at_once_either_may_win(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = SOURCES["digits"]

    def overtaken(root: Path) -> SourceImages:
        monkeypatch.setitem(SOURCES, "digits", real)
        load_images("digits", "", tmp_path)
        return real.read(root)

    monkeypatch.setitem(SOURCES, "digits", dataclasses.replace(real, read=overtaken))
    first = load_images("digits", "", tmp_path)
    assert fingerprints(first.train) == fingerprints(load_images("digits", "", tmp_path).train)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("file", ["train-pixels.npy", "test-labels.npy", "meta.json"])
@pytest.mark.parametrize("content", [b"", b"{}", b"\x93NUMPY"])
def test_damaged_prepared_data_is_prepared_again(file: str, content: bytes, tmp_path: Path) -> None:
    first = load_images("digits", "", tmp_path)
    (folder,) = tmp_path.glob("digits-*")
    (folder / file).write_bytes(content)
    again = load_images("digits", "", tmp_path)
    assert fingerprints(first.train) == fingerprints(again.train) and again.classes == 10


def test_a_changed_set_is_read_anew(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    first = load_images("mnist", str(tmp_path), tmp_path / "cache")
    write_mnist(tmp_path, seed=1)
    os.utime(tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte", ns=(1, 1))
    again = load_images("mnist", str(tmp_path), tmp_path / "cache")
    assert not np.array_equal(first.train.pixels_NCHW, again.train.pixels_NCHW)


def test_a_folder_with_train_and_test_is_taken_as_it_is(tmp_path: Path) -> None:
    write_folder(tmp_path / "own" / "train", 6)
    write_folder(tmp_path / "own" / "test", 20)
    images = load_images("folder", str(tmp_path / "own"), tmp_path / "cache")
    assert (images.shape, images.classes) == ((3, 64, 64), 2)
    assert [len(part) for part in (images.train, images.validation, images.test)] == [12, 4, 36]
    red_N = images.train.pixels_NCHW[:, 0].mean(axis=(1, 2))
    assert np.array_equal(red_N, images.train.labels_N * 200)


def test_a_folder_without_parts_is_split(tmp_path: Path) -> None:
    write_folder(tmp_path / "own", 50)
    images = load_images("folder", str(tmp_path / "own"), tmp_path / "cache")
    assert [len(part) for part in (images.train, images.validation, images.test)] == [80, 2, 18]


def test_a_server_needs_only_test_images(tmp_path: Path) -> None:
    write_folder(tmp_path / "own" / "test")
    images = load_images("folder", str(tmp_path / "own"), tmp_path / "cache")
    assert len(images.train) == 0 and images.classes == 2


def test_a_node_without_images_of_a_class_keeps_the_numbers_of_the_others(tmp_path: Path) -> None:
    write_folder(tmp_path / "own" / "train")
    write_folder(tmp_path / "own" / "test")
    for file in (tmp_path / "own" / "train" / "cat").iterdir():
        file.unlink()
    images = load_images("folder", str(tmp_path / "own"), tmp_path / "cache")
    assert set(images.train.labels_N.tolist()) == {1}


def test_folders_that_cannot_serve_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="is no folder"):
        load_images("folder", "", tmp_path / "cache")
    (tmp_path / "hollow" / "cat").mkdir(parents=True)
    (tmp_path / "hollow" / "dog").mkdir(parents=True)
    with pytest.raises(TaskError, match="no test images"):
        load_images("folder", str(tmp_path / "hollow"), tmp_path / "cache")


def test_dealing_by_class_takes_the_rounded_share_of_each() -> None:
    labels = np.repeat([0, 1, 2], [10, 25, 1])
    rest, picked = deal_by_class(labels, 0.2, seed=3)
    assert np.bincount(labels[picked], minlength=3).tolist() == [2, 5, 0]
    assert sorted([*rest, *picked]) == list(range(36))
