"""What a model computes beside its weights: the kinds of torch's layers, their settings, and those of other libraries.

Two models of the same arrays may differ in an activation, a dropout rate or a stride. What layers of other libraries
hold may be a machine's own: where the base model lies, a faster way to the same result. So only those of their settings
count whose name says that they are a part of what is computed, such as ``num_attention_heads``, and those of the
configurations that layers keep, which are called a ``config`` and have ``to_dict()``. Their kinds do not: libraries
rename them. The user's own layers are not looked at: their code is compared, and what a site chooses may lie in them.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import itertools
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, Final

from torch import nn

from hypergpu_fl.task.user_code import is_own

LAYERS: Final = "layers"  # in an identity: the text of `layers_text`
_TORCHS: Final = "torch.nn.modules."
_NO_SETTING: Final = {"inplace"}
# Parts of a name that say that its value is a part of what is computed.
_COMPUTED: Final = frozenset(
    ("alpha", "bidirectional", "causal", "coef", "dilation", "drop", "dropout", "eps", "epsilon", "experts", "groups")
    + ("head", "heads", "layerdrop", "momentum", "rope", "rslora", "scale", "scaling", "slope", "smoothing", "stride")
    + ("theta", "window")
)
_A_MACHINES: Final = frozenset(("backend", "cache", "checkpointing", "fused", "implementation", "kernel", "offload"))
_ACTIVATION: Final = re.compile(r"(.*_)?act(ivation)?(_fn|_function)?")
_PATH: Final = re.compile(r"\w+(\.\w+)*")
_WORD: Final = re.compile(r"[\w-]{1,40}")


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
    for name, value in _of_other_libraries(model):
        settings[name].append(value)
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


def _of_other_libraries(model: nn.Module) -> Iterator[tuple[str, str]]:
    """By name: settings of layers of installed libraries but torch, and of the configurations that layers keep."""
    told: set[int] = set()
    for layer in model.modules():
        kind, held = type(layer), vars(layer)
        if _installed(kind.__module__) and not kind.__module__.startswith(_TORCHS):
            yield from _computed(kind.__name__, {name: held[name] for name in held.keys() & _parameters(kind)})
        for value in (value for name, value in held.items() if "config" in name):
            for config in value.values() if isinstance(value, dict) else [value]:
                if id(config) not in told and _installed(_maker_of_dict(config)):
                    told.add(id(config))
                    with contextlib.suppress(Exception):  # of the library's own; nothing is compared then
                        yield from _computed(type(config).__name__, config.to_dict())


def _computed(path: str, settings: Mapping[Any, Any]) -> Iterator[tuple[str, str]]:
    """By name, also of nested ones, what is a part of what is computed. None leaves it to the library's release."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _computed(f"{path}.{key}", value)
        elif isinstance(value, bool | int | float | str) and _is_computed(f"{path}.{key}", value):
            yield f"{path}.{key}", repr(int(value) if isinstance(value, float) and value.is_integer() else value)


def _is_computed(path: str, value: Any) -> bool:
    """Whether the name says so, past that of its kind; a text must be one word, which no folder is."""
    if not _PATH.fullmatch(path) or isinstance(value, str) and not _WORD.fullmatch(value):
        return False
    if isinstance(value, str) and _ACTIVATION.fullmatch(path.rpartition(".")[2]):
        return True
    parts = set(itertools.chain.from_iterable(name.split("_") for name in path.split(".")[1:]))
    return bool(parts & _COMPUTED) and not parts & _A_MACHINES


def _maker_of_dict(config: Any) -> str:
    """Module that defines the object's ``to_dict``; empty if it has none."""
    return str(getattr(getattr(type(config), "to_dict", None), "__module__", ""))


def _installed(module: str) -> bool:
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is not None and not is_own(file)


def _plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _digest(values: list[str]) -> str:
    return f"#{hashlib.sha256(' '.join(values).encode()).hexdigest()[:16]}"
