"""People's own folders: each is read right or refused by name, and nothing is lost in silence."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
from image_folders import Make, fill, load, tree
from PIL import Image

from hypergpu_fl.config import Training
from hypergpu_fl.errors import TaskError
from hypergpu_fl.server.enrolment import differences
from hypergpu_fl.task import load_task
from hypergpu_fl.task.folder import part_of, survey
from hypergpu_fl.task.image import ImageTask


def and_then(*steps: Make) -> Make:
    def make(root: Path) -> None:
        for step in steps:
            step(root)

    return make


def linked(link: str, target: str) -> Make:
    def make(root: Path) -> None:
        (root / link).parent.mkdir(parents=True, exist_ok=True)
        (root / link).symlink_to(root / target)

    return make


READ: dict[str, tuple[Make, tuple[str, ...], tuple[int, int, int]]] = {
    # what lies there -> its classes, and how many images there are in train, validation and test
    "classes": (tree("cat", "dog"), ("cat", "dog"), (6, 0, 2)),
    "train and test": (tree("train/cat", "train/dog", "test/cat", "test/dog"), ("cat", "dog"), (8, 2, 6)),
    **{
        f"train, {name} and test": (
            tree(*(f"{part}/{pet}" for part in ("train", name, "test") for pet in ("cat", "dog"))),
            ("cat", "dog"),
            (8, 8, 8),
        )
        for name in ("val", "valid", "validation", "Validation")
    },
    "train and val": (tree("train/cat", "train/dog", "val/cat", "val/dog"), ("cat", "dog"), (8, 2, 6)),
    "train alone": (tree("train/cat", "train/dog"), ("cat", "dog"), (6, 0, 2)),
    "hidden folders": (tree("cat", "dog", ".git", ".ipynb_checkpoints", "__MACOSX"), ("cat", "dog"), (6, 0, 2)),
    "an empty class": (
        and_then(tree("cat", "dog"), lambda root: (root / "emu").mkdir()),
        ("cat", "dog", "emu"),
        (6, 0, 2),
    ),
    "a class called test": (tree("train/test", "train/val", "test/test", "test/val"), ("test", "val"), (8, 2, 6)),
    **{
        f"{train} and {test}": (
            tree(*(f"{part}/{pet}" for part in (train, test) for pet in ("cat", "dog"))),
            ("cat", "dog"),
            (8, 2, 6),
        )
        for train, test in (
            *(("training_set", "test_set"), ("Train Data", "Test Data"), ("trainset", "valset")),
            *(("train2017", "val2017"), ("images_train", "images_test"), ("training_v2", "testing.v2")),
            *(("2024-train", "2024-test"), ("imgs train 01", "imgs val 01"), ("dataset_train", "dataset_valid")),
        )
    },
    "a class like a part": (tree("trainer", "tests"), ("tests", "trainer"), (6, 0, 2)),
    "a class named after a part": (tree("train station", "bus stop"), ("bus stop", "train station"), (6, 0, 2)),
    "patients below classes": (tree("ill/p1", "ill/p2", "well/p3", "well/p4"), ("ill", "well"), (12, 2, 2)),
    "classes of people": (tree("user1", "user2"), ("user1", "user2"), (6, 0, 2)),
    "capital letters": (tree("Training/A", "Training/a", "Testing/A", "Testing/a"), ("A", "a"), (8, 2, 6)),
    "folders below classes": (tree("cat/2023", "cat/2024", "dog"), ("cat", "dog"), (9, 1, 2)),
}


@pytest.mark.parametrize(("make", "classes", "counts"), READ.values(), ids=READ)
def test_a_known_layout_is_read(
    make: Make, classes: tuple[str, ...], counts: tuple[int, int, int], tmp_path: Path
) -> None:
    make(tmp_path / "own")
    images = load(tmp_path / "own")
    assert images.class_names == classes
    assert (len(images.train), len(images.validation), len(images.test)) == counts
    wanted = sorted(
        (Image.open(file).getextrema()[0], next(name for name in reversed(file.parts) if name in classes))
        for file in (tmp_path / "own").rglob("*.png")
        if not any(name.startswith((".", "_")) for name in file.relative_to(tmp_path).parts)
    )
    read = sorted(
        (int(pixels_CHW[0, 0, 0]), classes[label])
        for part in (images.train, images.validation, images.test)
        for pixels_CHW, label in zip(part.pixels_NCHW, part.labels_N, strict=True)
    )
    assert read == wanted


def test_long_names_of_folders_are_told_from_parts_at_once() -> None:
    began_s = time.monotonic()
    for word in ("dataset", "data_", "1", "v1", "images-", "set "):
        assert (
            part_of(60 * word + "x") is None and part_of(60 * word + "train" + 60 * f"-{word.strip('-_ ')}") == "train"
        )
    assert time.monotonic() - began_s < 1


REFUSED: dict[str, tuple[Make, str]] = {
    "nothing": (lambda root: root.mkdir(), "holds no class"),
    "one class": (tree("cat"), "one class, cat"),
    "train alone with images in it": (tree("train"), "no class folder in train/"),
    "one folder too high": (tree("images/cat", "images/dog"), r"images/ has several: is it the folder meant\?"),
    "classes beside parts": (tree("train/cat", "train/dog", "cat"), "has cat beside train"),
    "val and valid": (tree("val/cat", "valid/cat", "train/cat"), "both val/ and valid/"),
    "val alone": (tree("val/cat", "val/dog"), "val/ alone"),
    "other classes to test on": (
        tree("train/cat", "train/fox", "test/cat", "test/dog"),
        "train/ alone has fox; test/ alone has dog",
    ),
    "one class more to train": (
        tree("train/cat", "train/dog", "train/emu", "test/cat", "test/dog"),
        "train/ alone has emu\n",
    ),
    "parts below classes": (tree("cat/train", "cat/test", "dog/train", "dog/test"), "parts lie above classes"),
    "a class of raw files": (
        tree("cat", "dog", **{"emu/1.raw": b"1", "emu/2.cr2": b"2"}),
        "class emu .*, emu/1.raw, emu/2.cr2 among them",
    ),
    "a class of empty files": (tree("cat", "dog", **{"emu/1.png": b""}), "class emu"),
    "images and labels": (tree("images", **{"labels/1.txt": b"0 0.5"}), "folders images, labels: .* not classes"),
    "images and masks": (
        tree("train/images", "train/masks", "val/images", "val/masks"),
        "images, masks: .* not classes",
    ),
    "a flat part": (tree("train/cat", "train/dog", **{"val/1.JPEG": b"1"}), "no class folder in val/"),
    "sites": (
        tree("site-a/cat", "site-a/dog", "site-b/cat", "site-b/dog"),
        "same folders, cat, dog, in each of site-a, site-b",
    ),
    "folds": (
        tree("train/fold1/cat", "train/fold1/dog", "train/fold2/cat", "train/fold2/dog"),
        "same folders, cat, dog, in each of fold1, fold2",
    ),
    "sites with a class of their own": (
        tree("site-a/cat", "site-a/dog", "site-b/cat", "site-b/fox"),
        "same folders, cat, in each of site-a, site-b",
    ),
    "sites with notes": (
        tree("site-a/cat", "site-a/dog", "site-b/cat", "site-b/dog", **{"site-a/readme.md": b"ours"}),
        "same folders, cat, dog, in each of site-a, site-b",
    ),
    "sites of one class each": (tree("Client 1/cat", "Client 2/dog"), "Client 1, Client 2, .* not classes"),
    "parts named after classes": (
        tree("cats_train", "cats_test", "dogs_train", "dogs_test"),
        "cats_test, cats_train, dogs_test and 1 more: are these classes, or parts of a set",
    ),
    "years of one part": (tree("train2014/cat", "train2017/cat"), "both train2014/ and train2017/"),
    "a cycle": (and_then(tree("cat", "dog"), linked("cat/again", "cat")), "cat and cat/again .* same folder"),
    "one folder as two classes": (and_then(tree("cat", "dog"), linked("fox", "cat")), "cat and fox .* same folder"),
    "one image in two parts": (
        and_then(tree("train/cat", "train/dog", "test/cat", "test/dog"), linked("test/cat/9.png", "train/cat/0.png")),
        "train/cat/0.png and test/cat/9.png .* same image",
    ),
    "a link to nothing": (
        and_then(tree("cat", "dog"), linked("cat/9.png", "gone.png")),
        "cat/9.png .* link to nothing",
    ),
    "two forms of one name": (tree("caf\u00e9", "cafe\u0301"), "differ in their Unicode form"),
}


@pytest.mark.parametrize(("make", "cause"), REFUSED.values(), ids=REFUSED)
def test_what_can_be_read_in_two_ways_is_refused_by_name(make: Make, cause: str, tmp_path: Path) -> None:
    make(tmp_path / "own")
    with pytest.raises(TaskError, match=cause) as caught:
        load(tmp_path / "own")
    assert caught.value.remedy


def test_what_was_passed_over_is_counted_and_named_every_time(tmp_path: Path) -> None:
    files = {f"cat/{number}.txt": b"note" for number in range(9)}
    tree("cat", "dog", **files, **{"cat/5.png": b"", "readme.md": b"", "dog/.DS_Store": b""})(tmp_path / "own")
    os.mkfifo(tmp_path / "own" / "dog" / "pipe.png")
    expected = (
        "1 passed over, empty: cat/5.png",
        "1 passed over, hidden: dog/.DS_Store",
        "1 passed over, in no class folder: readme.md",
        "1 passed over, no regular file: dog/pipe.png",
        "9 passed over, with an unknown ending: cat/0.txt, cat/1.txt, cat/2.txt and 6 more",
    )
    assert load(tmp_path / "own").notes == load(tmp_path / "own").notes == expected
    assert sum(map(len, survey(tmp_path / "own").parts.values())) == 8


def test_class_names_that_look_alike_when_joined_are_told_apart(tmp_path: Path) -> None:
    tree("a", "b, c")(tmp_path / "one")
    tree("a, b", "c")(tmp_path / "other")
    one, other = (
        load_task(
            Training(dataset="folder", data_root=str(tmp_path / root), num_nodes=1), cache=tmp_path / "cache"
        ).identity()
        for root in ("one", "other")
    )
    assert "classes" in differences(one, other)


@pytest.mark.parametrize(
    ("partitioner", "options"),
    [
        ("iid", {}),
        ("dirichlet", {"alpha": 0.1}),
        ("dirichlet", {"alpha": 100.0}),
        ("pathological", {"classes_per_node": 1}),
        ("shard", {"classes_per_node": 2}),
    ],
)
def test_a_folder_in_simulation_is_dealt_out_as_any_set_is(
    partitioner: str, options: dict[str, float], tmp_path: Path
) -> None:
    for pet in ("cat", "dog"):
        fill(tmp_path / "own" / pet, 60)
    training = Training(
        dataset="folder", data_root=str(tmp_path / "own"), num_nodes=4, partitioner=partitioner, **options
    )
    task = load_task(training, cache=tmp_path / "cache")
    assert isinstance(task, ImageTask)
    held = np.array([task.class_examples(node) for node in range(4)])
    assert held.sum(axis=0).tolist() == [48, 48] and (held.sum(axis=1) > 0).all()
    most = (held / held.sum(axis=1, keepdims=True)).max()
    if options.get("alpha") == 0.1 or partitioner == "pathological":
        assert most > 0.95
    elif partitioner in ("iid", "dirichlet"):
        assert most < 0.8


def test_a_class_that_no_image_was_found_of_is_named(tmp_path: Path) -> None:
    tree("cat", "dog")(tmp_path / "own")
    assert not load(tmp_path / "own").notes
    (tmp_path / "own" / "ant").mkdir()
    assert load(tmp_path / "own").notes == ("no image of ant: kept as a class, as where another site has images of it",)
