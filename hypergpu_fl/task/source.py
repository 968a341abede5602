"""The user's own code by its digest, so that a change of it, or another at a node, is seen."""

from __future__ import annotations

import ast
import hashlib
import inspect
import itertools
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from importlib.machinery import BYTECODE_SUFFIXES, EXTENSION_SUFFIXES, SOURCE_SUFFIXES
from pathlib import Path
from typing import Any, Final

from hypergpu_fl.task.names import import_object
from hypergpu_fl.task.protocol import Task

CODE: Final = "code"  # in an identity: modules of the task and their digests
_OURS: Final = ("hypergpu_fl", "strategies")  # may lie beside the user's modules, as in a bundle
_SUFFIXES: Final = (*EXTENSION_SUFFIXES, *SOURCE_SUFFIXES, *BYTECODE_SUFFIXES)  # in the order in which Python looks
_DIGITS: Final = 16


def source_digest(task: Task, architecture: str) -> str:
    """The first digits of the SHA-256 of the user's code, see `source_digests`. Empty where there is none."""
    digests = source_digests(task, architecture)
    if len(digests) < 2:
        return "".join(digests.values())[:_DIGITS]
    text = "".join(f"{name} {digest}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def with_code(identity: Mapping[str, str], task: Task, architecture: str) -> dict[str, str]:
    """``identity`` and, under `CODE`, each module of `source_digests` with the first digits of its digest.

    Compiled modules are left out, since they differ by machine.
    """
    digests = source_digests(task, architecture, suffixes=tuple(SOURCE_SUFFIXES))
    text = ", ".join(f"{name} {digest[:_DIGITS]}" for name, digest in sorted(digests.items()))
    return {**identity, CODE: text} if text else dict(identity)


def source_digests(task: Task, architecture: str, *, suffixes: tuple[str, ...] = _SUFFIXES) -> dict[str, str]:
    """SHA-256 of the user's code by module: that of the task, that of ``model_architecture``, and what they import.

    What they import of their own project counts, within functions as well. A project is the folder that the module
    is imported from; of an installed module, its package. Empty if the code cannot be read, or all is built in.
    """
    own: list[Any] = [
        type(task),
        *([import_object(architecture, "training.model_architecture")] if ":" in architecture else []),
    ]
    try:
        return {
            name: hashlib.sha256(place.read_bytes().replace(b"\r\n", b"\n")).hexdigest()
            for each in own
            if not each.__module__.startswith("hypergpu_fl.") and (file := inspect.getsourcefile(each))
            for name, place in modules_from(each.__module__, Path(file)).items()
            if place.name.endswith(suffixes)
        }
    except (AttributeError, TypeError, OSError, IndexError):  # no file, or one that lies nowhere near its module's name
        return {}


def modules_from(module: str, file: Path) -> dict[str, Path]:
    """The module of a file, and all that it imports from below the folder that it was imported from itself: by name.

    Nothing is run. A module that cannot be parsed counts, but what it imports does not. (The standard library's
    ``modulefinder`` fails on a package without ``__init__.py``, and on long chains of imports.) Of an installed module
    only its own package is looked at: beside it lies what others wrote.
    """
    root = file.parents[module.count(".") + (file.name == "__init__.py")]
    found = {module: file}
    installed = any(root.is_relative_to(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib"))
    top = module.partition(".")[0]
    waiting, looked = [module], {module}
    while waiting:
        name = waiting.pop()
        wanted = {name, *_imported_by(name, found[name])} if name in found else set()
        for part in {part for each in wanted for part in _with_packages(each)} - looked:
            looked.add(part)
            beyond = part.partition(".")[0] != top if installed else part.partition(".")[0] in _OURS
            if not beyond and (place := _file_of(part, root)):
                found[part] = place
                waiting.append(part)
    return found


def _imported_by(name: str, file: Path) -> Iterator[str]:
    """Names of what a module imports, anywhere in it; with ``from a import b``, b may be a module or not."""
    if file.suffix != ".py":
        return
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # such as a null byte, or brackets 1,000 deep
        return
    package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level <= len(package):
            above = package[: len(package) + 1 - node.level] if node.level else []
            origin = ".".join([*above, *filter(None, [node.module])])
            yield origin
            yield from (f"{origin}.{each.name}" for each in node.names)


def _with_packages(name: str) -> Iterator[str]:
    """``a``, ``a.b`` and ``a.b.c`` for ``a.b.c``: to import a module is to import the packages around it."""
    return itertools.accumulate(name.split("."), "{}.{}".format)


def _file_of(name: str, root: Path) -> Path | None:
    place = root.joinpath(*name.split("."))
    candidates = [place / "__init__.py", *(place.with_name(place.name + suffix) for suffix in _SUFFIXES)]
    lying = next((each for each in candidates if each.is_file()), None)
    if lying is None or name.partition(".")[0] in sys.stdlib_module_names:  # one such file is never the one imported
        return lying
    return Path(getattr(sys.modules.get(name), "__file__", None) or lying)  # another one, if that was found first
