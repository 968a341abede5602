"""200 folders made at random, by one that knows what a right reading is: the right images, or a fault by name."""

from __future__ import annotations

import os
import random
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hypergpu_fl.errors import TaskError
from hypergpu_fl.task.data import load_images

LAYOUTS = ((), ("train",), ("train", "test"), ("train", "val"), ("Training", "validation", "TEST"), ("test",))
CLASSES = (
    "cat",
    "dög",
    "10",
    "2",
    "new york",
    "猫",
    "it's",
    "a,b",
    "-rf",
    "🦊",
    "e\N{COMBINING ACUTE ACCENT}",
    "line\nfeed",
)
FILES = (
    b"plain",
    b"r\xe9sum\xe9",
    "日本".encode("shift_jis"),
    b"-x",
    b"a b",
    b"\xff\xfe",
    b"it's",
    b"new\nline",
    "ü".encode(),
)
MODES = ("L", "RGB", "RGBA", "LA", "P", "CMYK", "16", "I", "F", "jpeg", "webp", "bmp")


def paint(mode: str, value: int, size: tuple[int, int]) -> tuple[Image.Image, str, dict[str, object]]:
    """Image that shows one grey, how its file ends, and how to save it."""
    height, width = size
    grey = Image.new("L", (width, height), value)
    if mode == "16":
        return Image.fromarray(np.full(size, value * 257, np.uint16)), ".PNG", {}
    if mode in ("I", "F"):
        array = np.full(size, value * 257, np.int32) if mode == "I" else np.full(size, value / 255, np.float32)
        return Image.fromarray(array), ".tif", {}
    if mode in ("jpeg", "webp", "bmp"):
        return grey.convert("RGB"), f".{mode}", {"jpeg": {"quality": 100}, "webp": {"lossless": True}}.get(mode, {})
    return (
        grey.convert("RGB").convert(mode) if mode == "CMYK" else grey.convert(mode),
        (".tiff" if mode == "CMYK" else ".png"),
        {},
    )


class Scene:
    """A folder in the making, and what a right reading of it is."""

    def __init__(self, root: Path, away: Path, rng: random.Random) -> None:
        self.root, self.away, self.rng = root, away, rng
        self.wanted: Counter[tuple[str, int]] = Counter()
        self.passed_over = self.serial = 0
        self.layout = rng.choice(LAYOUTS)
        self.classes = sorted(rng.sample(CLASSES, rng.randint(2, 4)))
        self.groups = [root / part / name for part in self.layout or ("",) for name in self.classes]
        for group in self.groups:
            group.mkdir(parents=True)
            for _ in range(rng.randint(1, 4)):
                self.image(group)
            for _ in range(rng.randint(0, 2)):
                self.junk(group)

    def name(self, ending: str) -> str:
        self.serial += 1
        return os.fsdecode(self.rng.choice(FILES) + b"%d" % self.serial + ending.encode())

    def image(self, group: Path) -> None:
        value = self.rng.randint(40, 250)
        picture, ending, options = paint(
            self.rng.choice(MODES), value, (self.rng.randint(1, 90), self.rng.randint(1, 90))
        )
        folder, name = group, self.name(ending)
        match self.rng.randint(0, 5):
            case 0:
                folder = group / f"more{self.serial}"
                folder.mkdir()
            case 1:
                (self.away / str(self.serial)).mkdir()
                folder = group / f"linked{self.serial}"
                folder.symlink_to(self.away / str(self.serial))
            case 2:
                (folder / name).symlink_to(self.away / f"{self.serial}{ending}")
        picture.save(folder / name, **options)
        self.wanted[unicodedata.normalize("NFC", group.name), value] += 1

    def junk(self, group: Path) -> None:
        name = self.name(self.rng.choice((".txt", ".raw", ".png.part", "")))
        match self.rng.randint(0, 3):
            case 0:
                (group / f".{name}").write_bytes(b"hidden")
            case 1:
                (group / f"{name}.png").write_bytes(b"")
            case 2:
                (self.root / name).write_bytes(b"beside")
            case _:
                (group / name).write_bytes(b"unknown")
        self.passed_over += 1

    def spoil(self) -> str:
        """Break the folder in one way; return what the refusal has to name."""
        group = self.rng.choice(self.groups)
        serial = self.serial = self.serial + 1
        match self.rng.randint(0, 7):
            case 0:
                (group / f"torn{serial}.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
                return f"torn{serial}.png"
            case 1:
                (group / f"gone{serial}.png").symlink_to(self.away / "nowhere")
                return f"gone{serial}.png"
            case 2:
                name = f"lost{serial}"
                for part in self.layout or ("",):
                    (self.root / part / name).mkdir()
                    (self.root / part / name / "notes.txt").write_bytes(b"no image")
                return name
            case 3:
                os.mkdir(os.fsencode(group.parent) + b"/\xff\xfeclass")
                return "udcff"
            case 4:
                Image.fromarray(np.full((4, 4), -1, np.float32)).save(group / f"below{serial}.tif")
                return f"below{serial}.tif"
            case 5:
                (group / f"again{serial}").symlink_to(group)
                return f"again{serial}"
            case 6:
                frames = [Image.new("L", (4, 4), grey) for grey in (1, 2)]
                frames[0].save(group / f"pages{serial}.tif", save_all=True, append_images=frames[1:])
                return f"pages{serial}.tif"
            case _:
                (group / "train").mkdir()
                return f"{group.name}/train" if group.name.isprintable() else "train"


@pytest.mark.parametrize("seed", range(200))
def test_a_folder_is_read_right_or_refused_by_name(seed: int, tmp_path: Path) -> None:
    (tmp_path / "away").mkdir()
    rng = random.Random(seed)
    scene = Scene(tmp_path / "own", tmp_path / "away", rng)
    expected = scene.spoil() if rng.random() < 0.4 else ""
    if expected:
        with pytest.raises(TaskError) as caught:
            load_images("folder", str(scene.root), tmp_path / "cache")
        assert expected in caught.value.cause and "\n" not in caught.value.cause
        return
    images = load_images("folder", str(scene.root), tmp_path / "cache")
    read = Counter(
        (images.class_names[label], round(float(pixels.mean())))
        for part in (images.train, images.validation, images.test)
        for pixels, label in zip(part.pixels_NCHW, part.labels_N, strict=True)
    )
    assert read == scene.wanted
    assert sum(int(note.split()[0]) for note in images.notes if "passed over" in note) == scene.passed_over
