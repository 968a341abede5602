"""The configuration tree as a flat table of dotted names, the form of Flower's run-config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from hypergpu_fl.config.models import Config

Scalar = bool | int | float | str


def fields(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every leaf of the tree as ``(dotted name, field)``, in the order of the models."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from fields(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf as ``(dotted name, value)``; a name given both nested and dotted appears twice."""
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Nested tables as dotted names; an empty table stays as a value, so that nothing disappears."""
    return dict(leaves(tree))


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of ``flatten``. A name that is both value and table keeps the value, for validation to refuse."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *tables, leaf = path.split(".")
        node = tree
        for table in tables:
            below = node.setdefault(table, {})
            if not isinstance(below, dict):
                break
            node = below
        else:
            if isinstance(node.get(leaf), dict) and node[leaf] and value == {}:
                continue
            node[leaf] = value
    return tree


def from_text(field: FieldInfo, text: str) -> Any:
    """``text`` (an environment variable, ``--set``) as the field's type, or as it stands if it is not one.

    Bounds are not checked here: validation of the whole tree does that, and reports all faults at once.
    """
    try:
        annotation: Any = field.annotation
        return TypeAdapter(annotation).validate_strings(text.strip())
    except ValidationError:
        return text
