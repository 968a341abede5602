"""Image sets, read once and kept as plain arrays that every later process maps instead of reading.

Flower starts a process for every message; mapping the arrays lets it touch one node's share and import no reader.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from loguru import logger

from hypergpu_fl.errors import TaskError
from hypergpu_fl.task.names import unknown
from hypergpu_fl.task.sources import SOURCES, Images, Source, deal_by_class

PARTS = ("train", "validation", "test")
VALIDATION_SHARE, VALIDATION_LIMIT = 0.1, 1000


@dataclass(frozen=True, slots=True)
class ImageSet:
    """A data set in three parts that share no image, with the scale of its pixels (see `Source`)."""

    train: Images
    validation: Images
    test: Images
    classes: int
    white: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        _, channels, height, width = self.test.pixels_NCHW.shape
        return channels, height, width


def load_images(name: str, data_root: str, cache: Path) -> ImageSet:
    """Open a data set; the first time, read it and keep it under ``cache``.

    The validation part is a stratified tenth, at most 1,000 images, of the training set. For ``folder`` it is a
    tenth of the test set, so that a node trains on all it has and a server needs no training images.

    Raises
    ------
    TaskError
        If the set is unknown, is neither under ``data_root`` nor can be downloaded to it, or cannot be read.
    """
    if name not in SOURCES:
        raise unknown("training.dataset", name, SOURCES)
    source = SOURCES[name]
    root = _locate(name, source, data_root, cache)
    folder = cache / f"{name}-{_fingerprint(name, source, root)}"
    if (kept := _open(folder, source)) is not None:
        return kept
    fresh = _prepare(name, source, root)
    _keep(folder, fresh)
    return fresh


def _locate(name: str, source: Source, data_root: str, cache: Path) -> Path:
    """Folder that holds the source's files, downloading them if they are not there."""
    if name == "folder":
        root = Path(data_root).expanduser()
        if not data_root or not root.is_dir():
            raise TaskError(
                f"training.data_root = {data_root!r} is no folder",
                "name one with train/<class>/* and test/<class>/*, or <class>/*",
            )
        return root
    root = Path(data_root).expanduser() if data_root else cache / "downloads"
    if source.download is None or all((root / file).is_file() for file in source.files):
        return root
    try:
        source.download(root)
    except (OSError, RuntimeError) as error:
        missing = [file for file in source.files if not (root / file).is_file()]
        raise TaskError(
            f"data set {name!r} is not in {root} (missing: {', '.join(missing)}) and cannot be downloaded: "
            f"{str(error).splitlines()[0]}",
            f"set training.data_root to the folder that holds {source.files[0].split('/')[0]}/, or go online",
        ) from error
    return root


def _fingerprint(name: str, source: Source, root: Path) -> str:
    """Hash of the names, sizes and times of the files behind a set."""
    if name == "folder":
        files = sorted(file for file in root.rglob("*") if file.is_file())
    else:
        files = [root / file for file in source.files]
    digest = hashlib.sha256()
    for file in files:
        status = file.stat()
        digest.update(f"{file.resolve()}|{status.st_size}|{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _prepare(name: str, source: Source, root: Path) -> ImageSet:
    try:
        reading = source.read(root)
    except TaskError:
        raise
    except Exception as error:  # the readers' errors are as many as the ways in which a file can be broken
        raise TaskError(
            f"data set {name!r} in {root} cannot be read: {type(error).__name__}: {error}",
            "replace its files by whole ones",
        ) from error
    if not len(reading.test):
        raise TaskError(f"data set {name!r} in {root} has no test images", "add some, at least one for every class")
    origin = getattr(reading, source.validation_from)
    share = min(VALIDATION_SHARE, VALIDATION_LIMIT / len(origin))
    rest, picked = deal_by_class(origin.labels_N, share, seed=0)
    parts = {"train": reading.train, "test": reading.test, "validation": origin.take(picked)}
    parts[source.validation_from] = origin.take(rest)
    return ImageSet(**parts, classes=reading.classes, white=source.white, mean=source.mean, std=source.std)


def _open(folder: Path, source: Source) -> ImageSet | None:
    if not folder.is_dir():
        return None
    try:
        parts = {
            part: Images(
                np.load(folder / f"{part}-pixels.npy", mmap_mode="r", allow_pickle=False),
                np.load(folder / f"{part}-labels.npy", allow_pickle=False),
            )
            for part in PARTS
        }
        classes = int(json.loads((folder / "meta.json").read_text())["classes"])
    except Exception as error:  # damaged files fail in many ways; all mean: prepare again
        logger.warning("prepared data in {} is unreadable and will be prepared again: {}", folder, error)
        shutil.rmtree(folder, ignore_errors=True)
        return None
    return ImageSet(**parts, classes=classes, white=source.white, mean=source.mean, std=source.std)


def _keep(folder: Path, images: ImageSet) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Many processes may prepare the same set at once: each fills its own folder, and the first rename wins.
    draft = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}.tmp"))
    try:
        for part in PARTS:
            content: Images = getattr(images, part)
            np.save(draft / f"{part}-pixels.npy", content.pixels_NCHW)
            np.save(draft / f"{part}-labels.npy", content.labels_N)
        (draft / "meta.json").write_text(json.dumps({"classes": images.classes}))
        try:
            os.rename(draft, folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
