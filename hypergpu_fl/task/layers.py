"""What a model computes beside its weights: the kinds of torch's layers, their settings, and those of other libraries.

Two models of the same arrays may differ in an activation, a dropout rate or a stride. Layers of other libraries also
hold what may differ by machine: the path of the base model, a faster kernel. So of their settings only those are
compared whose names say that they change the result, such as ``num_attention_heads``. The same goes for the
configurations that such layers keep: attributes called a ``config`` that have ``to_dict()``. The layers' kinds are not
compared, since libraries rename them. The user's own layers are left out: their code is compared instead, and a site
may choose what they hold.
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
# Words of a setting's name which say that it changes the result.
_COMPUTED: Final = frozenset(
    ("alpha", "bidirectional", "causal", "coef", "dilation", "drop", "dropout", "eps", "epsilon", "experts", "groups")
    + ("head", "heads", "layerdrop", "momentum", "rope", "rslora", "scale", "scaling", "slope", "smoothing", "stride")
    + ("theta", "window")
)
# Words which say that it may differ by machine, whatever else the name says.
_BY_MACHINE: Final = frozenset(("backend", "cache", "checkpointing", "fused", "implementation", "kernel", "offload"))
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
                settings[f"{kind}.{name}"].append(_text(value))
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
    """Settings that change the result, nested ones too, by name. None is left out: the library's release decides it."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _computed(f"{path}.{key}", value)
        elif isinstance(value, bool | int | float | str) and _is_computed(f"{path}.{key}", value):
            yield f"{path}.{key}", _text(int(value) if isinstance(value, float) and value.is_integer() else value)


def _text(value: Any) -> str:
    """The value without spaces, as Python's own kind writes it: enums and numpy's floats write themselves otherwise."""
    kind: Any = next((kind for kind in (bool, int, float, str) if isinstance(value, kind)), type(value))
    text: str = kind.__repr__(value)
    return text.replace(" ", "")


def _is_computed(path: str, value: Any) -> bool:
    """Whether the setting's name says that it changes the result. A text counts if it is one word: a path is none.

    The first name of ``path`` is that of the layer or configuration, and says nothing.
    """
    if not _PATH.fullmatch(path) or isinstance(value, str) and not _WORD.fullmatch(value):
        return False
    if isinstance(value, str) and _ACTIVATION.fullmatch(path.rpartition(".")[2]):
        return True
    words = set(itertools.chain.from_iterable(name.split("_") for name in path.split(".")[1:]))
    return bool(words & _COMPUTED) and not words & _BY_MACHINE


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
