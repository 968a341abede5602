"""The user's own code by its digest, so that a change of it is seen."""

from __future__ import annotations

import hashlib
import inspect
import sysconfig
from modulefinder import ModuleFinder
from pathlib import Path
from typing import Final

from hypergpu_fl.task.protocol import Task

_OURS: Final = ("hypergpu_fl", "strategies")  # may lie beside the user's modules, as in a bundle
_DIGITS: Final = 16


def source_digest(task: Task) -> str:
    """The first digits of the SHA-256 of the user's code: the task's module, and what it imports of its own project.

    A project is the folder that the task's module is imported from. Imports within functions count too. Of an installed
    task only its own file counts. Empty if the code cannot be read, or the task is built in.
    """
    module = type(task).__module__
    try:
        file = None if module.startswith("hypergpu_fl.") else inspect.getsourcefile(type(task))
        files = modules_from(module, Path(file)) if file else {}
        digests = {name: hashlib.sha256(place.read_bytes()).hexdigest() for name, place in files.items()}
    except (TypeError, OSError, SyntaxError):
        return ""
    if len(digests) < 2:
        return "".join(digests.values())[:_DIGITS]
    text = "".join(f"{name} {digest}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def modules_from(module: str, file: Path) -> dict[str, Path]:
    """The module of a file, and all that it imports from below the folder that it was imported from itself: by name."""
    is_package = file.name == "__init__.py"
    root = file.parents[module.count(".") + is_package]
    found = {module: file}
    if any(root.is_relative_to(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")):
        return found
    finder = ModuleFinder([str(root)], excludes=list(_OURS))
    finder.import_hook(module)
    files = {name: getattr(each, "__file__", None) for name, each in finder.modules.items()}
    return found | {name: Path(file) for name, file in files.items() if file}
