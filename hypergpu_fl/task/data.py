"""Image sets, read once and kept as plain arrays, which every later process maps instead of reading the files.

Flower starts a process for every message. With mapped arrays it touches only one node's share and imports no reader.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from loguru import logger

from hypergpu_fl.errors import TaskError, first_line
from hypergpu_fl.files import path_meant
from hypergpu_fl.task.folder import LAYOUTS, OPTION, survey
from hypergpu_fl.task.names import unknown
from hypergpu_fl.task.sources import SOURCES, Images, Source, deal_by_class

PARTS = ("train", "validation", "test")
VALIDATION_SHARE, VALIDATION_LIMIT = 0.1, 1000
READER = 4
"""Version of the readers; raise it whenever their result for the same files changes."""


@dataclass(frozen=True, slots=True)
class ImageSet:
    """A data set in three parts that share no image, with the scale of its pixels (see `Source`).

    ``class_names`` are in the order of the labels. ``notes`` say what the reader skipped or assumed, ``whites`` by
    which white it scaled grey images of more than 8 bits.
    """

    train: Images
    validation: Images
    test: Images
    class_names: tuple[str, ...]
    white: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    notes: tuple[str, ...] = ()
    whites: Mapping[str, float] = field(default_factory=dict)

    @property
    def classes(self) -> int:
        """Count of the classes."""
        return len(self.class_names)

    @property
    def normalization(self) -> str:
        """How a file becomes a model's input, as a text that is equal wherever inputs are comparable."""
        size = "x".join(map(str, self.shape))
        whites = "".join(f", white of {kind} images {white:g} ({OPTION})" for kind, white in self.whites.items())
        return f"{size}, (p / {self.white} - {self.mean}) / {self.std}, reader {READER}{whites}"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        _, channels, height, width = self.test.pixels_NCHW.shape
        return channels, height, width


def load_images(name: str, data_root: str, cache: Path, *, white: float | None = None) -> ImageSet:
    """Open a data set; the first time, read it and keep it under ``cache``.

    The validation part is a stratified tenth, at most 1,000 images, of the training set. For ``folder`` it is what
    lies in its own folder, else a tenth of the test set, so that a node trains on all it has and a server needs no
    training images. ``white``: of grey images of more than 8 bits in a folder, see `hypergpu_fl.task.pixels`.

    Raises
    ------
    TaskError
        If the set is unknown, is neither under ``data_root`` nor can be downloaded to it, or cannot be read.
    """
    if name not in SOURCES:
        raise unknown("training.dataset", name, SOURCES)
    source = SOURCES[name]
    root = _locate(name, source, data_root, cache)
    folder = cache / f"{name}-{_fingerprint(name, source, root, white)}"
    if (images := _open(folder, source)) is None:
        images = _prepare(name, source, root, white)
        _keep(folder, images)
    for note in images.notes:
        logger.warning("{}: {}", root, note)
    return images


def _locate(name: str, source: Source, data_root: str, cache: Path) -> Path:
    """Folder that holds the source's files, downloading them if they are not there."""
    if name == "folder":
        root = Path(data_root).expanduser()
        if not data_root or not root.is_dir():
            raise TaskError(
                f"training.data_root = {data_root!r} is no folder",
                (data_root and path_meant(root)) or LAYOUTS,
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
            f"{first_line(error)}",
            (path_meant(root) if data_root and not root.exists() else "")
            or f"set training.data_root to the folder that holds {source.files[0].split('/')[0]}/, or go online",
        ) from error
    return root


def _fingerprint(name: str, source: Source, root: Path, white: float | None) -> str:
    """Hash of all that a reading depends on: the reader, the classes, and every file's place, size and times.

    Whoever copies or unpacks files can give others the same names, sizes and times of modification, but no one sets the
    time at which the file system last noted a change.
    """
    digest = hashlib.sha256(f"{READER}\n".encode())

    def add(*parts: object) -> None:
        # As JSON, since a file's name may hold any character; names that are not UTF-8 come as lone surrogates.
        digest.update(json.dumps(parts).encode() + b"\n")

    if name == "folder":
        found = survey(root)
        add(os.path.realpath(root), found.class_names, found.notes, white)
        for part, files in found.parts.items():
            for file in files:
                add(part, file.label, file.name, file.size_bytes, file.mtime_ns, file.ctime_ns)
    for place in source.files:
        status = (root / place).stat()
        add(place, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return digest.hexdigest()[:16]


def _prepare(name: str, source: Source, root: Path, white: float | None) -> ImageSet:
    try:
        reading = source.read(root, white=white) if name == "folder" else source.read(root)
    except TaskError:
        raise
    except Exception as error:  # the readers' errors are as many as the ways in which a file can be broken
        raise TaskError(
            f"data set {name!r} in {root} cannot be read: {type(error).__name__}: {error}",
            "replace its files by whole ones",
        ) from error
    if not len(reading.test):
        raise TaskError(
            f"data set {name!r} in {root} has no test images: of {len(reading.train):,} a fifth of each class is kept "
            "for it, where there is no test/"
            if len(reading.train)
            else f"data set {name!r} in {root} has no test images",
            "add some, at least one for every class",
        )
    given = reading.validation is not None and len(reading.validation) > 0
    parts = {"train": reading.train, "test": reading.test}
    if reading.validation is not None:
        parts["validation"] = reading.validation
    origin = "validation" if given else source.validation_from
    whole = parts[origin]
    share = VALIDATION_LIMIT / len(whole) if given else min(VALIDATION_SHARE, VALIDATION_LIMIT / len(whole))
    rest, picked = deal_by_class(whole.labels_N, min(share, 1.0), seed=0)
    parts |= {origin: whole.take(rest), "validation": whole.take(picked)}
    return ImageSet(
        **parts,
        class_names=reading.class_names,
        white=source.white,
        mean=source.mean,
        std=source.std,
        notes=reading.notes,
        whites=reading.whites,
    )


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
        if any(len(part.pixels_NCHW) != len(part) for part in parts.values()):
            raise ValueError("pixels and labels differ in number")
        meta = json.loads((folder / "meta.json").read_text())
        names, notes, whites = tuple(meta["class_names"]), tuple(meta["notes"]), dict(meta["whites"])
    except Exception as error:  # damaged files fail in many ways; all mean: prepare again
        logger.warning("prepared data in {} is unreadable and will be prepared again: {}", folder, error)
        shutil.rmtree(folder, ignore_errors=True)
        return None
    return ImageSet(
        **parts,
        class_names=names,
        white=source.white,
        mean=source.mean,
        std=source.std,
        notes=notes,
        whites=whites,
    )


def _keep(folder: Path, images: ImageSet) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Many processes may prepare the same set at once: each fills its own folder, and the first rename wins.
    draft = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}.tmp"))
    try:
        for part in PARTS:
            content: Images = getattr(images, part)
            np.save(draft / f"{part}-pixels.npy", content.pixels_NCHW)
            np.save(draft / f"{part}-labels.npy", content.labels_N)
        meta = {"class_names": images.class_names, "notes": images.notes, "whites": images.whites}
        (draft / "meta.json").write_text(json.dumps(meta))
        try:
            os.rename(draft, folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
