"""People's own folders: each is read right or refused by name, and nothing is lost in silence."""

from __future__ import annotations

import os
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hypergpu_fl.config import Training
from hypergpu_fl.errors import TaskError
from hypergpu_fl.server.enrolment import differences
from hypergpu_fl.task import load_task
from hypergpu_fl.task.data import ImageSet, load_images
from hypergpu_fl.task.folder import part_of, survey
from hypergpu_fl.task.image import ImageTask
from hypergpu_fl.task.pixels import SIDE, read_images

Make = Callable[[Path], None]


def fill(folder: Path, count: int = 4, grey: int = 100) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("L", (8, 8), grey).save(folder / f"{number}.png")


def tree(*folders: str, **others: bytes) -> Make:
    """Fill the folders with images of a grey of their own, and write the other files."""

    def make(root: Path) -> None:
        for number, folder in enumerate(folders):
            fill(root / folder, grey=10 * number)
        for name, content in others.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)

    return make


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


def load(root: Path) -> ImageSet:
    return load_images("folder", str(root), root.parent / "cache")


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


RAMP = np.linspace(0, 1, SIDE)[None, :].repeat(SIDE, axis=0)
EIGHT = np.rint(RAMP * 255)
SHAPE = np.zeros((SIDE, SIDE), np.uint8)
SHAPE[16:48, 16:48] = 255


def save(array: np.ndarray, name: str = "a.tif", **options: object) -> Make:
    return lambda root: Image.fromarray(array).save(root / name, **options)


def with_alpha(grey: int) -> Make:
    layers = [np.full((SIDE, SIDE), grey, np.uint8)] * 3
    return save(np.dstack([*layers, SHAPE]), "a.png")


def palette_with_transparency(root: Path) -> None:
    image = Image.fromarray((SHAPE > 0).astype(np.uint8), mode="P")
    image.putpalette([0, 0, 0, 0, 0, 0])
    image.save(root / "a.png", transparency=0)


def sideways(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the top is at the right
    Image.fromarray(EIGHT.astype(np.uint8)).rotate(90).save(root / "a.png", exif=exif)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(grey_HW: np.ndarray, *, colours: int, alpha: int | None = None, name: str = "a.png") -> Make:
    """A PNG of 16 bits a channel, which Pillow reads but cannot write."""
    planes = [grey_HW] * colours + ([] if alpha is None else [np.full_like(grey_HW, alpha)])
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in np.dstack(planes))
    kind = {(3, False): 2, (1, True): 4, (3, True): 6}[colours, alpha is not None]
    header = struct.pack(">IIBBBBB", *grey_HW.shape[::-1], 16, kind, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return lambda root: (root / name).write_bytes(b"\x89PNG\r\n\x1a\n" + parts) and None


def tiff(grey_HW: np.ndarray, *, photometric: int) -> Make:
    """A TIFF of one strip with a given meaning of 0, which Pillow does not write."""
    data, bits, kind = grey_HW.tobytes(), 8 * grey_HW.itemsize, 3 if grey_HW.dtype.kind == "f" else 1
    height, width = grey_HW.shape
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 0, 277: 1, 278: height, 279: len(data)}
    tags |= {339: kind, 273: 8 + 2 + 12 * 10 + 4}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0)
    return lambda root: (root / "a.tif").write_bytes(head + data) and None


def broken_pixel(grey_HW: np.ndarray) -> np.ndarray:
    values = np.rint(grey_HW).astype(np.uint16)
    values[0, -1] = 65535  # where the image is white anyway
    return values


CONVERTED: dict[str, tuple[Make, np.ndarray]] = {
    "16-bit PNG": (save((RAMP * 65535).astype(np.uint16), "a.png"), EIGHT),
    "16-bit PNG of 12 bits": (save((RAMP * 4095).astype(np.uint16), "a.png"), EIGHT),
    "16-bit big-endian TIFF": (save((RAMP * 65535).astype(">u2")), EIGHT),
    "32-bit TIFF of 16 bits": (save((RAMP * 65535).astype(np.int32)), EIGHT),
    "float TIFF up to 1": (save(RAMP.astype(np.float32)), EIGHT),
    "float TIFF up to 255": (save((RAMP * 255).astype(np.float32)), EIGHT),
    "16-bit TIFF whose 0 is white": (tiff(np.rint((1 - RAMP) * 65535).astype("<u2"), photometric=0), EIGHT),
    "8-bit TIFF whose 0 is white": (tiff(np.rint((1 - RAMP) * 255).astype(np.uint8), photometric=0), EIGHT),
    "float TIFF whose 0 is white": (tiff((1 - RAMP).astype("<f4"), photometric=0), EIGHT),
    "16-bit colour PNG": (png((RAMP * 65535).astype(np.uint16), colours=3), EIGHT),
    "16-bit grey PNG with alpha": (png((RAMP * 65535).astype(np.uint16), colours=1, alpha=65535), EIGHT),
    "grey PNG with alpha": (save(np.dstack([EIGHT, EIGHT * 0 + 255]).astype(np.uint8), "a.png"), EIGHT),
    "16-bit PNG with a broken pixel": (save(broken_pixel(RAMP * 4095), "a.png"), EIGHT),
    "black on transparent": (with_alpha(0), np.where(SHAPE, 0, 128)),
    "white on transparent": (with_alpha(255), np.where(SHAPE, 255, 128)),
    "grey and alpha": (save(np.dstack([SHAPE * 0, SHAPE]), "a.png"), np.where(SHAPE, 0, 128)),
    "palette and transparency": (palette_with_transparency, np.where(SHAPE, 0, 128)),
    "bilevel": (save(SHAPE > 0), SHAPE),
    "palette": (lambda root: Image.fromarray(SHAPE).convert("P").save(root / "a.png"), SHAPE),
    "CMYK": (lambda root: Image.fromarray(SHAPE).convert("RGB").convert("CMYK").save(root / "a.tif"), SHAPE),
    "sideways by its EXIF": (sideways, EIGHT),
}


@pytest.mark.parametrize(("make", "expected"), CONVERTED.values(), ids=CONVERTED)
def test_an_image_of_any_mode_shows_what_it_showed(make: Make, expected: np.ndarray, tmp_path: Path) -> None:
    make(tmp_path)
    (pixels_CHW,) = read_images(tmp_path, [file.name for file in tmp_path.iterdir()]).pixels_NCHW
    assert np.abs(pixels_CHW - expected.astype(float)).max() <= 1


def test_dark_images_of_sixteen_bits_stay_dark_beside_a_bright_one(tmp_path: Path) -> None:
    save((RAMP * 65535).astype(np.uint16), "a.png")(tmp_path)
    save(np.full((8, 8), 257, np.uint16), "b.png")(tmp_path)
    assert (read_images(tmp_path, ["a.png", "b.png"]).pixels_NCHW[1] == 1).all()


def test_one_broken_pixel_does_not_darken_a_folder(tmp_path: Path) -> None:
    save((RAMP * 4095).astype(np.uint16), "a.png")(tmp_path)
    hot = np.full((64, 64), 2048, np.uint16)
    hot[9, 9] = 65535
    save(hot, "b.png")(tmp_path)
    read = read_images(tmp_path, ["a.png", "b.png"])
    assert np.abs(read.pixels_NCHW[0] - EIGHT).max() <= 1 and read.whites == {"integer": 4095}
    assert np.median(read.pixels_NCHW[1]) == 128


def test_white_can_be_said_and_is_then_the_same_everywhere(tmp_path: Path) -> None:
    save((RAMP * 1000).astype(np.uint16), "a.png")(tmp_path)
    assert read_images(tmp_path, ["a.png"], white=2000).pixels_NCHW.max() == 128
    with pytest.raises(TaskError, match="pixels of .* above training.options.white = 500"):
        read_images(tmp_path, ["a.png"], white=500)
    save((RAMP * 1.5).astype(np.float32), "b.tif")(tmp_path)
    assert read_images(tmp_path, ["b.tif"], white=1.5).pixels_NCHW.max() == 255


def site(root: Path, largest: int) -> Training:
    for pet in ("cat", "dog"):
        (root / pet).mkdir(parents=True)
        for number in range(3):
            save((RAMP * largest).astype(np.uint16), f"{number}.png")(root / pet)
    return Training(dataset="folder", data_root=str(root), num_nodes=1)


def test_sites_whose_images_were_scaled_by_another_white_are_told_apart(tmp_path: Path) -> None:
    trainings = [site(tmp_path / name, largest) for name, largest in (("a", 4000), ("b", 60000), ("c", 3000))]
    a, b, c = (load_task(training, cache=tmp_path / "cache").identity() for training in trainings)
    assert a == c and "white of integer images 4095 (training.options.white)" in differences(a, b)
    said = [training.model_copy(update={"options": {"white": 65535}}) for training in trainings]
    a, b, c = (load_task(training, cache=tmp_path / "cache").identity() for training in said)
    assert a == b == c
    with pytest.raises(TaskError, match="training.options.white = 'bright' is no brightness"):
        load_task(trainings[0].model_copy(update={"options": {"white": "bright"}}), cache=tmp_path / "cache")


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


def pages(root: Path) -> None:
    frames = [Image.new("L", (8, 8), grey) for grey in (0, 100, 200)]
    frames[0].save(root / "a.tif", save_all=True, append_images=frames[1:])


def bomb(root: Path) -> None:
    header = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 0, 0, 0, 0)
    (root / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")))


def truncated(root: Path) -> None:
    rng = np.random.default_rng(0)
    save(rng.integers(256, size=(64, 64, 3), dtype=np.uint8), "a.jpg")(root)
    (root / "a.jpg").write_bytes((root / "a.jpg").read_bytes()[:900])


BROKEN: dict[str, tuple[Make, str]] = {
    "truncated": (truncated, "a.jpg .* truncated"),
    "bomb": (bomb, "a.png .* exceeds limit"),
    "no image": (lambda root: (root / "a.png").write_bytes(b"not an image"), "a.png .* it is none of JPEG"),
    "PostScript": (
        lambda root: (root / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
        "a.png .* it is none of",
    ),
    "not a number": (save(np.full((8, 8), np.nan, np.float32)), "a.tif .* no number"),
    "negative": (save(np.full((8, 8), -1, np.float32)), "a.tif .* pixel of -1"),
    "no known white": (save(np.full((8, 8), 1e6, np.float32)), "a.tif .* pixel of 1e[+]06: what is white"),
    "several pages": (pages, "a.tif .* 3 pages"),
    "LAB": (lambda root: Image.new("LAB", (8, 8)).save(root / "a.tif"), "a.tif .* mode LAB"),
    "grey shape on grey": (with_alpha(128), "a.png .* the grey"),
    "nearly grey shape on grey": (with_alpha(135), "a.png .* the grey"),
    "grey shape of LA": (save(np.dstack([SHAPE * 0 + 124, SHAPE]), "a.png"), "a.png .* the grey"),
    "float above 1": (save((RAMP * 1.5).astype(np.float32)), "a.tif .* pixel of 1.5 and none beside .* what is white"),
    "float far below 1": (save((RAMP * 0.01).astype(np.float32)), "a.tif .* what is white"),
    "colours of 12 bits in 16": (
        png((RAMP * 4095).astype(np.uint16), colours=3),
        "a.png .* 16 bits a colour and uses 12",
    ),
    "grey of 12 bits with alpha": (png((RAMP * 4095).astype(np.uint16), colours=1, alpha=65535), "a.png .* uses 12"),
    "alpha of 12 bits": (png((RAMP * 4095).astype(np.uint16), colours=3, alpha=4095), "a.png .* transparency uses 12"),
    "a shape that is transparent": (save(np.dstack([SHAPE] * 3 + [SHAPE * 0]), "a.png"), "a.png .*alpha 0.* nothing"),
}


@pytest.mark.parametrize(("make", "cause"), BROKEN.values(), ids=BROKEN)
def test_an_image_that_cannot_be_kept_whole_is_refused_by_name(make: Make, cause: str, tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(TaskError, match=cause):
        read_images(tmp_path, [file.name for file in tmp_path.iterdir()])


def test_all_images_that_cannot_be_read_are_counted_at_once(tmp_path: Path) -> None:
    tree("cat", **{f"{number}.png": b"no image" for number in range(6)})(tmp_path)
    with pytest.raises(TaskError, match=r"0\.png .*; nor can 5 more: 1\.png, 2\.png, 3\.png and 2 more\n"):
        read_images(tmp_path, [*(f"{number}.png" for number in range(6)), "cat/0.png"])


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
