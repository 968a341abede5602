"""From a name in the configuration to the thing it names."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable
from typing import Any

from hypergpu_fl.errors import TaskError


def unknown(field: str, name: str, known: Iterable[str]) -> TaskError:
    """Error for a name that is none of ``known``, with the nearest one as remedy."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    choices = ", ".join(known)
    remedy = f"did you mean {near[0]!r}? known: {choices}" if near else f"use one of: {choices}"
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
        found: object = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise TaskError(
            f"{field} = {reference!r} cannot be imported: {error}", "install the module or put it on PYTHONPATH"
        ) from error
    except AttributeError as error:
        raise TaskError(
            f"{field} = {reference!r}: module {module} has no {name!r}", "name a callable of that module"
        ) from error
    if not callable(found):
        raise TaskError(f"{field} = {reference!r} is a {type(found).__name__}", "name a function or a class")
    return found
