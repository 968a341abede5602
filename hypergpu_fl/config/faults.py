"""Faults of a configuration in words: dotted path, offending value, next step."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from hypergpu_fl.errors import Fault
from hypergpu_fl.redaction import redact
from strategies.spelling import did_you_mean, nearest

if TYPE_CHECKING:
    from pydantic import ValidationError

_ACROSS = re.compile(r"([a-z_.]+): (.*)", re.S)
_SHOWN = 60  # characters of an offending value


def shown(value: object) -> str:
    """Value on one line as a file spells it, at bounded length and without credentials, fit for a message."""
    text = json.dumps(value) if value is None or isinstance(value, bool) else redact(repr(value))
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _requirement(kind: str, context: Mapping[str, Any], message: str) -> str:
    """Say what the field wanted, in a plain phrase that follows ``must``."""
    bounds = {
        "greater_than": ("above", "gt"),
        "greater_than_equal": ("at least", "ge"),
        "less_than": ("below", "lt"),
        "less_than_equal": ("at most", "le"),
    }
    if kind in bounds:
        words, bound = bounds[kind]
        limit = context[bound]
        return f"be {words} {limit if isinstance(limit, int) else f'{limit:.12g}'}"
    if kind == "literal_error":
        return f"be one of {context['expected'].replace(' or ', ', ')}"
    if kind == "value_error":
        return str(context["error"]).removeprefix("must ")
    names = {"int": "a whole number", "float": "a number", "bool": "true or false", "string": "text"}
    for name, words in names.items():
        if kind.startswith((f"{name}_type", f"{name}_parsing", f"{name}_from")):
            return f"be {words}"
    return {"model_type": "be a table of settings", "finite_number": "be a finite number"}.get(kind, message)


def faults(error: ValidationError, origins: Mapping[str, str], known: Iterable[str]) -> list[Fault]:
    """Faults of a Pydantic ``error``, each with its dotted path, value, origin and remedy.

    Parameters
    ----------
    error : ValidationError
        As raised by the ``Config`` model.
    origins : Mapping[str, str]
        Dotted path -> layer it came from, for the message.
    known : Iterable[str]
        All dotted paths there are, for the did-you-mean.
    """
    known = list(known)
    found: list[Fault] = []
    for entry in error.errors(include_url=False):
        path = ".".join(str(part) for part in entry["loc"])
        kind, value, context = entry["type"], entry["input"], entry.get("ctx", {})
        if kind == "extra_forbidden":
            origin = next((o for p, o in origins.items() if p == path or p.startswith(f"{path}.")), "")
            where = f" (in {origin})" if origin else ""
            name = path if path.isprintable() and path.strip() else repr(path)
            found.append(Fault(f"{name} is not a setting{where}", _unknown_remedy(path, known)))
            continue
        requirement = _requirement(kind, context, entry["msg"])
        if kind == "value_error" and (across := _ACROSS.fullmatch(requirement)):
            # A check across fields names the field at fault itself: "rpc_url: is empty, but ...".
            field, cause = across.groups()
            path = f"{path}.{field}" if path else field
            found.append(Fault(f"{path} {cause}", f"set {path}; `hypergpu config schema` explains it"))
            continue
        origin = f" (in {origins[path]})" if path in origins else ""
        if kind.startswith("float") and isinstance(value, int) and not isinstance(value, bool):
            requirement = "be a number of usual size"  # beyond what 64 bits of a float can hold
        requirement, _, hint = requirement.partition("; ")
        if kind == "literal_error" and isinstance(value, str):
            hint = did_you_mean(value, re.findall(r"'([^']*)'", context["expected"])).removeprefix("; ")
        wanted = "one of these" if kind == "literal_error" else f"a value that is {requirement.removeprefix('be ')}"
        remedy = hint or f"give {path} {wanted}"
        found.append(Fault(f"{path} is {shown(value)}{origin}, but must {requirement}", remedy))
    return found


def _initials(field: str) -> str:
    """``lr`` for ``learning_rate``."""
    return "".join(word[:1] for word in field.split("_"))


def _unknown_remedy(path: str, known: list[str]) -> str:
    section, _, leaf = path.rpartition(".")
    elsewhere = [name for name in known if name.rpartition(".")[2] == leaf]  # the right field in the wrong section
    sections = sorted({name.split(".")[0] for name in known})
    longer = [name for name in known if len(leaf) > 2 and name.startswith(path)]
    inside = {name.rpartition(".")[2]: name for name in known if section and name.startswith(f"{section}.")}
    short = [name for field, name in inside.items() if _initials(field) == leaf]  # training.lr
    by_word = inside or {name: name for name in [*known, *sections]}
    near = nearest(leaf if inside else path, by_word)
    guess = next(iter(elsewhere or longer or short), None) or (by_word[near] if near else None)
    if guess:
        return f"did you mean {guess}?"
    return "remove it; `hypergpu config show` lists every setting"
