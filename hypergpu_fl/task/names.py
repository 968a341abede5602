"""Resolves a name in the configuration to the object that it names."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from hypergpu_fl.errors import TaskError
from hypergpu_fl.task.user_code import user_code
from strategies.spelling import nearest


def unknown(field: str, name: str, known: Iterable[str]) -> TaskError:
    """Error for a name that is none of ``known``, with the nearest one as remedy."""
    known = sorted(known)
    near = nearest(name, known)
    choices = ", ".join(known)
    remedy = f"did you mean {near!r}? known: {choices}" if near else f"use one of: {choices}"
    return TaskError(f"{field} = {name!r} is not known", remedy)


def import_object(reference: str, field: str) -> Callable[..., Any]:
    """Import the callable that ``"pkg.module:name"`` refers to.

    Raises
    ------
    TaskError
        If the reference has another form, or names nothing that can be imported and called.
    """
    module, colon, name = reference.partition(":")
    if not (module and colon and name):
        raise TaskError(f"{field} = {reference!r} is not of the form 'pkg.module:name'", "name a module and a callable")
    try:
        with user_code(f"importing {field} = {reference!r}"):
            loaded = importlib.import_module(module)
    except TaskError as error:
        missing = getattr(error.__cause__, "name", None)
        if isinstance(error.__cause__, ModuleNotFoundError) and f"{module}.".startswith(f"{missing}."):
            whole = reference.replace(".py:", ":")
            raise TaskError(
                f"{field} = {reference!r} cannot be imported: there is no module {missing!r} here",
                f"leave out the ending: {whole}"
                if whole != reference
                else "run in the folder that holds it, install it, or put it on PYTHONPATH",
            ) from error
        raise
    try:
        found: object = getattr(loaded, name)
    except AttributeError as error:
        raise TaskError(f"{field} = {reference!r}: module {module} has no {name!r}", _remedy(loaded)) from error
    lacking: list[str] = getattr(found, "unwritten", list)()
    if lacking:
        named = ", ".join(f"{method}()" for method in lacking)
        raise TaskError(f"{field} = {reference!r} lacks {named}", f"write {named} in class {name}")
    if not callable(found):
        raise TaskError(f"{field} = {reference!r} is a {type(found).__name__}", "name a function or a class")
    return found


def _remedy(module: ModuleType) -> str:
    """To rename a file whose name is another module's, else the callables that the module defines itself."""
    own_file = Path(*module.__name__.split(".")).with_suffix(".py")
    if own_file.is_file() and not own_file.samefile(getattr(module, "__file__", None) or sys.executable):
        return f"name {own_file} otherwise: Python has a module of that name, which is found first"
    own = [
        name
        for name, found in vars(module).items()
        if callable(found) and not name.startswith("_") and getattr(found, "__module__", "") == module.__name__
    ]
    return f"name a callable of that module: {', '.join(own[:9])}" if own else "name a callable of that module"
