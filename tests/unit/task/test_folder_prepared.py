"""What was prepared of a folder of images answers for that folder as it is now, and for no other."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from image_folders import Make, fill, load, tree
from PIL import Image

from hypergpu_fl.task.data import load_images


def swap(one: Path, other: Path) -> None:
    spare = one.with_name("spare")
    one.rename(spare)
    other.rename(one)
    spare.rename(other)


def replaced_keeping_its_size(root: Path) -> None:
    file = root / "cat" / "0.bmp"
    Image.new("RGB", (8, 8), (9, 9, 9)).save(file)


CHANGES: dict[str, Make] = {
    "an empty class is added": lambda root: (root / "ant").mkdir(),
    "images behind a linked folder are replaced": lambda root: fill(root.parent / "away", grey=77),
    "a link moves to the other class": lambda root: (root / "cat" / "link").rename(root / "dog" / "link"),
    "two classes change names": lambda root: swap(root / "cat", root / "dog"),
    "the image behind a link is replaced": lambda root: Image.new("L", (9, 9)).save(root.parent / "single.png"),
    "a file is replaced by one of its size": replaced_keeping_its_size,
    "a file becomes hidden": lambda root: (root / "dog" / "3.png").rename(root / "dog" / ".3.png"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_prepared_data_never_answers_for_other_data(change: Make, tmp_path: Path) -> None:
    root = tmp_path / "own"
    tree("cat", "dog")(root)
    fill(tmp_path / "away", grey=50)
    (root / "cat" / "link").symlink_to(tmp_path / "away")
    Image.new("L", (8, 8), 200).save(tmp_path / "single.png")
    (root / "dog" / "single.png").symlink_to(tmp_path / "single.png")
    Image.new("RGB", (8, 8), (1, 2, 3)).save(root / "cat" / "0.bmp")
    load(root)
    change(root)
    again, fresh = load(root), load_images("folder", str(root), tmp_path / "empty cache")
    assert again.class_names == fresh.class_names
    for part in ("train", "validation", "test"):
        assert np.array_equal(getattr(again, part).pixels_NCHW, getattr(fresh, part).pixels_NCHW)
        assert np.array_equal(getattr(again, part).labels_N, getattr(fresh, part).labels_N)
    assert len(list((tmp_path / "cache").glob("folder-*"))) == 2


def test_prepared_data_never_answers_for_another_folder_of_equal_names_sizes_and_times(tmp_path: Path) -> None:
    for root, grey in (("one", 10), ("other", 200)):
        for pet in ("cat", "dog"):
            fill(tmp_path / root / pet, grey=grey)
        for file in (tmp_path / root).rglob("*.png"):
            os.utime(file, ns=(10**18, 10**18))
    assert {load(tmp_path / root).test.pixels_NCHW.max() for root in ("one", "other")} == {10, 200}


def test_prepared_data_never_answers_for_other_content_that_was_given_the_old_time(tmp_path: Path) -> None:
    file = tmp_path / "own" / "cat" / "0.bmp"
    tree("cat", "dog")(tmp_path / "own")
    for grey in (10, 200):
        Image.new("RGB", (8, 8), (grey, grey, grey)).save(file)
        os.utime(file, ns=(10**18, 10**18))
        images = load(tmp_path / "own")
        assert grey in {int(pixels.max()) for part in (images.train, images.test) for pixels in part.pixels_NCHW}
