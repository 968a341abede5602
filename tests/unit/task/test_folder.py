"""People's own folders: each is read right or refused by name, and nothing is lost in silence."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hypergpu_fl.config import Training
from hypergpu_fl.errors import TaskError
from hypergpu_fl.task import load_task
from hypergpu_fl.task.data import ImageSet, load_images
from hypergpu_fl.task.folder import survey
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
        for train, test in (("training_set", "test_set"), ("Train Data", "Test Data"), ("trainset", "valset"))
    },
    "a class like a part": (tree("trainer", "tests"), ("tests", "trainer"), (6, 0, 2)),
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


def test_a_folder_that_only_moved_is_not_read_again(tmp_path: Path) -> None:
    tree("cat", "dog")(tmp_path / "own")
    load(tmp_path / "own")
    shutil.move(tmp_path / "own", tmp_path / "moved")
    load(tmp_path / "moved")
    assert len(list((tmp_path / "cache").iterdir())) == 1


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


CONVERTED: dict[str, tuple[Make, np.ndarray]] = {
    "16-bit PNG": (save((RAMP * 65535).astype(np.uint16), "a.png"), EIGHT),
    "16-bit PNG of 12 bits": (save((RAMP * 4095).astype(np.uint16), "a.png"), EIGHT),
    "16-bit big-endian TIFF": (save((RAMP * 65535).astype(">u2")), EIGHT),
    "32-bit TIFF of 16 bits": (save((RAMP * 65535).astype(np.int32)), EIGHT),
    "float TIFF up to 1": (save(RAMP.astype(np.float32)), EIGHT),
    "float TIFF up to 255": (save((RAMP * 255).astype(np.float32)), EIGHT),
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
    (pixels_CHW,) = read_images(tmp_path, [file.name for file in tmp_path.iterdir()])
    assert np.abs(pixels_CHW - expected.astype(float)).max() <= 1


def test_dark_images_of_sixteen_bits_stay_dark_beside_a_bright_one(tmp_path: Path) -> None:
    save((RAMP * 65535).astype(np.uint16), "a.png")(tmp_path)
    save(np.full((8, 8), 257, np.uint16), "b.png")(tmp_path)
    assert (read_images(tmp_path, ["a.png", "b.png"])[1] == 1).all()


def pages(root: Path) -> None:
    frames = [Image.new("L", (8, 8), grey) for grey in (0, 100, 200)]
    frames[0].save(root / "a.tif", save_all=True, append_images=frames[1:])


def bomb(root: Path) -> None:
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

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
