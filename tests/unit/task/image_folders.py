"""Folders of images as people have them, written for a test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PIL import Image

from hypergpu_fl.task.data import ImageSet, load_images

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


def load(root: Path) -> ImageSet:
    return load_images("folder", str(root), root.parent / "cache")
