"""Surveys a folder of images: its parts, its classes, every file with its class, and what was passed over.

Nothing is decoded here. Prepared data are identified by the survey, so it holds everything that a reading depends on.
"""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from hypergpu_fl.errors import TaskError
from hypergpu_fl.output import printable

ENDINGS: Final = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
PARTS: Final = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
_PART_OF: Final = {name: part for part, names in PARTS.items() for name in names}
# "training_set", "Test data", "images_train", "val2017", "test_v2"; what is called otherwise is a class.
_BESIDE_PART: Final = r"(?>dataset|data|set|split|images?|imgs?|v?[0-9]++)"  # tried once: a name may be long
_PART_NAME: Final = re.compile(rf"(?:{_BESIDE_PART}[ ._-]?)*+(?P<part>{'|'.join(_PART_OF)})(?:[ ._-]?{_BESIDE_PART})*+")
_NAMES_PART: Final = re.compile(rf"(?<![a-z])({'|'.join(_PART_OF)})(?![a-z])")
# "site-a", "client_3", "fold2": if they hold folders, these are probably the classes.
_SITE: Final = re.compile(
    r"(site|client|node|hospital|clinic|center|centre|silo|party|participant|user|device|worker|fold|split|shard"
    r"|partition|batch)s?[ ._-]?([0-9]{1,6}|[a-z])"
)
# Folders that a set for detection or segmentation has side by side.
_NO_CLASS: Final = ("images", "imgs", "jpegimages", "labels", "masks", "annotations", "bboxes", "depth")
# Files that file managers and archivers leave behind, besides those that begin with a dot.
_DEBRIS: Final = ("thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "system volume information")
OPTION: Final = "training.options.white"  # of grey images of more than 8 bits
_HIDDEN: Final = "hidden"
LAYOUTS: Final = "use train/<class>/* and test/<class>/* (and val/<class>/* if you like), or <class>/* alone"
_NAMED: Final = 3  # names in a message; the others are counted


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One image: its path below the root, its class's number, and the size and times of what a link leads to."""

    name: str
    label: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int


@dataclass(frozen=True, slots=True)
class Survey:
    """What a folder holds.

    ``parts`` has the images of ``train``, ``validation`` and ``test``, as far as there are such folders, or those of
    ``whole`` where nothing was set apart. ``notes`` tells what was passed over or taken for something else.
    """

    class_names: tuple[str, ...]
    parts: dict[str, tuple[ImageFile, ...]]
    notes: tuple[str, ...]


def survey(root: Path) -> Survey:
    """Look through a folder of images, links followed.

    Raises
    ------
    TaskError
        If the layout is not known or can be read in two ways, there are fewer than two classes, the parts have
        different classes, a class lost all its files, or a file or folder cannot be read.
    """
    walk = _Walk(root)
    folders = walk.folders("")
    found, notes = _layout(root, folders)
    classes = {part: _class_folders(walk, folder) for part, folder in found.items()}
    for part, of_part in classes.items():
        _check_classes(walk, found[part], of_part)
    names = _same_classes(root, found, classes)
    if len(names) < 2:
        count = f"one class, {listed(names)}" if names else "no class"
        raise TaskError(
            f"{root} holds {count}: training needs two or more folders of images{_deeper(walk, folders)}", LAYOUTS
        )
    parts = {
        part: tuple(walk.images(part, names.index(name), folder) for name, folder in sorted(of_part.items()))
        for part, of_part in classes.items()
    }
    flat = {part: tuple(file for group in groups for file in group) for part, groups in parts.items()}
    seen = {file.label for files in flat.values() for file in files}
    if without := [name for label, name in enumerate(names) if label not in seen]:
        notes.append(f"no image of {listed(without)}: kept as a class, as where another site has images of it")
    return Survey(names, flat, (*notes, *walk.notes()))


def part_of(folder: str) -> str | None:
    """The part of a set that a folder of this name holds; None if it is a class's."""
    match = _PART_NAME.fullmatch(folder.casefold())
    return _PART_OF[match["part"]] if match else None


def listed(names: list[str] | tuple[str, ...]) -> str:
    """Some names and how many more there are."""
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(map(printable, names[:_NAMED])) + more


def _layout(root: Path, folders: list[str]) -> tuple[dict[str, str], list[str]]:
    """Part -> its folder below the root, and what to tell; the part ``whole`` is the root or its ``train`` alone."""
    parts: dict[str, str] = {}
    others = [folder for folder in folders if part_of(folder) is None]
    for folder in folders:
        if (part := part_of(folder)) is None:
            continue
        if part in parts:
            raise TaskError(
                f"{root} has both {parts[part]}/ and {folder}/, which mean the same", "keep one of the two there"
            )
        parts[part] = folder
    if not parts:
        mentioned = {folder: found[1] for folder in others if (found := _NAMES_PART.search(folder.casefold()))}
        if len({_PART_OF[word] for word in mentioned.values()}) > 1:
            raise TaskError(
                f"{root} has {listed(list(mentioned))}: are these classes, or parts of a set?",
                f"rename or move them; {LAYOUTS}",
            )
        return {"whole": ""}, []
    if others:
        raise TaskError(
            f"{root} has {listed(others)} beside {listed(list(parts.values()))}: are these classes, or parts of a set?",
            f"move what is not meant elsewhere; {LAYOUTS}",
        )
    if set(parts) == {"train"}:
        return {"whole": parts["train"]}, [f"no test/: a fifth of {parts['train']}/ is kept for it"]
    if set(parts) == {"validation"}:
        raise TaskError(f"{root} has {parts['validation']}/ alone", "call it test/ if it is what a server evaluates on")
    if "test" not in parts:
        return {"train": parts["train"], "test": parts["validation"]}, [
            f"no test/: {parts['validation']}/ takes its place"
        ]
    return {part: parts[part] for part in PARTS if part in parts}, []


def _class_folders(walk: _Walk, folder: str) -> dict[str, str]:
    """Class name -> its folder. The name is composed Unicode: macOS decomposes what others keep composed."""
    found: dict[str, str] = {}
    for name in walk.folders(folder):
        where = _below(folder, name)
        try:
            name.encode()
        except UnicodeEncodeError:
            raise TaskError(
                f"the class folder {printable(where)} in {walk.root} has a name that is not UTF-8",
                "rename it: nodes and server compare the names of classes",
            ) from None
        composed = unicodedata.normalize("NFC", name)
        if composed in found:
            raise TaskError(
                f"{walk.root} has two class folders {printable(where)}, which differ in their Unicode form alone",
                "move the files of one to the other",
            )
        found[composed] = where
    return found


def _check_classes(walk: _Walk, part: str, classes: dict[str, str]) -> None:
    """Refuse folders in the place of classes that are probably something else."""
    if part and not classes:
        raise TaskError(f"{walk.root} has no class folder in {printable(part)}/", LAYOUTS)
    odd = [name for name in classes if name.casefold() in _NO_CLASS]
    if len(odd) > 1:
        raise TaskError(
            f"{walk.root} has the folders {listed(odd)}: images and what belongs to them, not classes",
            "built-in models tell classes apart; for detection or segmentation write a task, docs/your-own-task.md",
        )
    below = [set(walk.only_folders(folder)) for folder in classes.values()]
    if len(below) < 2 or not all(below):
        return
    common = sorted(set.intersection(*below))
    if 2 * len(common) >= min(map(len, below)) and max(map(len, below)) > 1:
        raise TaskError(
            f"{walk.root} has the same folders, {listed(common)}, in each of {listed(sorted(classes))}: which of the "
            "two are the classes?",
            f"of sites or parts name one as training.data_root, or {LAYOUTS}; of classes move the images up",
        )
    if all(_SITE.fullmatch(name.casefold()) for name in classes):
        raise TaskError(
            f"{walk.root} has {listed(sorted(classes))}, which hold folders and no images: sites or parts, not classes",
            f"name one as training.data_root, or {LAYOUTS}; if they are classes move the images up",
        )


def _same_classes(root: Path, found: dict[str, str], classes: dict[str, dict[str, str]]) -> tuple[str, ...]:
    first, *rest = classes
    for part in rest:
        one, other = classes[first].keys(), classes[part].keys()
        if one != other:
            sides = [
                f"{found[here]}/ alone has {listed(sorted(extra))}"
                for here, extra in ((first, one - other), (part, other - one))
                if extra
            ]
            raise TaskError(
                f"{root} has different classes in {found[first]}/ and {found[part]}/: {'; '.join(sides)}",
                "give both the same class folders; one without images stays empty",
            )
    return tuple(sorted(classes[first]))


def _deeper(walk: _Walk, folders: list[str]) -> str:
    """Hint for a root that is one folder too high."""
    if len(folders) == 1 and len(walk.folders(folders[0])) > 1:
        return f" ({printable(folders[0])}/ has several: is it the folder meant?)"
    return ""


def _below(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


@dataclass(slots=True)
class _Walk:
    """A walk through the folders below ``root``; remembers where it has been and what it passed over."""

    root: Path
    passed_over: dict[str, set[str]] = field(default_factory=dict)
    _folders: dict[tuple[int, int], str] = field(default_factory=dict)
    _files: dict[tuple[int, int], tuple[str, int, str]] = field(default_factory=dict)

    def folders(self, folder: str) -> list[str]:
        """Names of the folders in ``folder``; what else lies there is in no class."""
        found = []
        for name, where, status in self._entries(folder):
            if stat.S_ISDIR(status.st_mode):
                found.append(name)
            else:
                self._pass("in no class folder", where)
        return found

    def only_folders(self, folder: str) -> list[str]:
        """Names of the folders in ``folder`` if no image lies beside them, and none is a part's; else none."""
        found = []
        for name, _, status in self._entries(folder):
            if stat.S_ISDIR(status.st_mode) and part_of(name) is None:
                found.append(name)
            elif stat.S_ISDIR(status.st_mode) or not _unfit(name, status):
                return []
        return found

    def images(self, part: str, label: int, folder: str) -> list[ImageFile]:
        """Images of one class, those in folders below it too.

        Raises
        ------
        TaskError
            If the class has files and none is an image, or a folder or file is met in a second place.
        """
        found: list[ImageFile] = []
        lost: list[str] = []
        waiting = [folder]
        while waiting:
            here = waiting.pop()
            self._enter(here)
            for name, where, status in self._entries(here):
                if stat.S_ISDIR(status.st_mode):
                    if part_of(name):
                        raise TaskError(
                            f"{self.root} has {printable(where)}/: parts lie above classes, not below them",
                            LAYOUTS,
                        )
                    waiting.append(where)
                elif reason := _unfit(name, status):
                    self._pass(reason, where)
                    lost.append(where)
                else:
                    self._claim(where, part, label, status)
                    found.append(ImageFile(where, label, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
        if lost and not found:
            raise TaskError(
                f"no file of the class {printable(folder)} in {self.root} can be used, {listed(lost)} among them",
                f"an image is not empty and ends with {', '.join(ENDINGS)}",
            )
        return sorted(found, key=lambda file: file.name)

    def notes(self) -> list[str]:
        """One line for every reason for which something was passed over."""
        return [
            f"{len(names):,} passed over, {reason}: {listed(sorted(names))}"
            for reason, names in sorted(self.passed_over.items())
        ]

    def _pass(self, reason: str, where: str) -> None:
        self.passed_over.setdefault(reason, set()).add(where)

    def _entries(self, folder: str) -> Iterator[tuple[str, str, os.stat_result]]:
        """``(name, path below the root, status of what it leads to)`` of all that is not hidden, in order."""
        try:
            names = sorted(os.listdir(self.root / folder))
        except OSError as error:
            raise self._unreadable(folder or ".", error) from error
        for name in names:
            where = _below(folder, name)
            if name.startswith(".") or name.casefold() in _DEBRIS:
                self._pass(_HIDDEN, where)
                continue
            try:
                yield name, where, os.stat(self.root / where)
            except OSError as error:
                raise self._unreadable(where, error) from error

    def _unreadable(self, where: str, error: OSError) -> TaskError:
        if isinstance(error, FileNotFoundError):
            return TaskError(f"{printable(where)} in {self.root} is a link to nothing", "mend or remove it")
        return TaskError(f"{printable(where)} in {self.root} cannot be read: {error.strerror}", "mend or remove it")

    def _enter(self, folder: str) -> None:
        status = os.stat(self.root / folder)
        before = self._folders.setdefault((status.st_dev, status.st_ino), folder)
        if before != folder:
            raise TaskError(
                f"{printable(before)} and {printable(folder)} in {self.root} are one and the same folder",
                "remove the link: its images would count twice",
            )

    def _claim(self, where: str, part: str, label: int, status: os.stat_result) -> None:
        """Refuse a file that a link puts into another class or part as well; within one class, links may weight it."""
        other_part, other_label, other = self._files.setdefault((status.st_dev, status.st_ino), (part, label, where))
        if (other_part, other_label) != (part, label):
            raise TaskError(
                f"{printable(other)} and {printable(where)} in {self.root} are one and the same image",
                "keep it in one class of one part: it cannot be two things, nor be trained and tested on",
            )


def _unfit(name: str, status: os.stat_result) -> str:
    """Why a file is no image, or nothing."""
    if not name.lower().endswith(ENDINGS):
        return "with an unknown ending"
    if not stat.S_ISREG(status.st_mode):
        return "no regular file"
    return "" if status.st_size else "empty"
