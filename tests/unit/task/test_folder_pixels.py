"""An image of any mode and depth shows what it showed, or is refused by name."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from image_folders import Make, tree
from PIL import Image

from hypergpu_fl.config import Training
from hypergpu_fl.errors import TaskError
from hypergpu_fl.server.enrolment import differences
from hypergpu_fl.task import load_task
from hypergpu_fl.task.pixels import SIDE, read_images

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
