"""What a model computes beside its weights, as far as torch's own layers say it: their kinds and settings.

Two models of the same arrays may differ in an activation, a dropout rate or a stride. Layers of other libraries and of
the user's are not looked at: they may well choose a faster way to the same result where a machine has one.
"""

from __future__ import annotations

import hashlib
import inspect
import itertools
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final

from torch import nn

LAYERS: Final = "layers"  # in an identity: the text of `layers_text`
_TORCHS: Final = "torch.nn.modules."
_NO_SETTING: Final = {"inplace"}


def layers_text(model: nn.Module) -> str:
    """How many layers of each kind there are, and each of their settings: ``"Dropout 2; Dropout.p 0.1"``.

    Settings that differ within one kind are told by a digest, in the order of the layers.
    """
    counts: dict[str, int] = defaultdict(int)
    settings: dict[str, list[str]] = defaultdict(list)
    layers = [layer for layer in model.modules() if type(layer).__module__.startswith(_TORCHS)]
    made_from = {kind: _parameters(kind) for kind in map(type, layers)}
    for layer in layers:
        kind = type(layer).__name__
        counts[kind] += 1
        for name, value in vars(layer).items():
            if name in made_from[type(layer)] and _plain(value):
                settings[f"{kind}.{name}"].append(repr(value).replace(" ", ""))
    told = {kind: str(count) for kind, count in counts.items()}
    told |= {name: values[0] if len({*values}) == 1 else _digest(values) for name, values in settings.items()}
    return "; ".join(f"{name} {text}" for name, text in sorted(told.items()))


def comparable(one: str, other: str) -> tuple[dict[str, str], dict[str, str]]:
    """Both texts by name, without settings that only one release of torch knows."""
    sides = [dict(f"layer {each}".rpartition(" ")[::2] for each in text.split("; ") if each) for text in (one, other)]
    return _shared(*sides), _shared(*reversed(sides))


def _shared(one: Mapping[str, str], other: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in one.items() if name in other or "." not in name}


def _parameters(kind: type[nn.Module]) -> frozenset[str]:
    """What a layer of this kind is made from; whatever else it holds may be a machine's own."""
    made_by = (inspect.signature(vars(each)["__init__"]) for each in kind.__mro__ if "__init__" in vars(each))
    return frozenset(itertools.chain.from_iterable(each.parameters for each in made_by)) - _NO_SETTING


def _plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _digest(values: list[str]) -> str:
    return f"#{hashlib.sha256(' '.join(values).encode()).hexdigest()[:16]}"
