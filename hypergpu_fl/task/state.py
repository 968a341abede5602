"""A model as arrays: what travels, what stays, and how both are identified.

Trainable parameters and buffers travel. Frozen parameters are loaded on each machine and compared by hash.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from hypergpu_fl.errors import TaskError
from strategies.model.layout import Layout
from strategies.model.statistics import NAMES as STATISTICS

MOST_NAMED: Final = 400  # arrays of a model that a node lists when it says hello; all of them are in the hash
LONGEST_NAME: Final = 100


def travelling(model: nn.Module) -> dict[str, Tensor]:
    """Trainable parameters and buffers by name, a tensor shared by two names once, under the first.

    What else ``state_dict`` holds is left out, such as a module's extra state: what is loaded into that is lost.
    """
    own = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    first: dict[int, str] = {}
    return {
        name: tensor
        for name, tensor in model.state_dict(keep_vars=True).items()
        if id(tensor) in own
        and (tensor.requires_grad or not isinstance(tensor, nn.Parameter))
        and first.setdefault(id(tensor), name) == name
    }


def arrays_of(model: nn.Module) -> dict[str, NDArray[Any]]:
    """Copy of what travels: floats as float32, order stable."""
    return {
        name: (
            tensor.detach()
            .to("cpu", torch.float32 if tensor.is_floating_point() else None, copy=True)
            .contiguous()
            .numpy()
        )
        for name, tensor in travelling(model).items()
    }


def measured_names(model: nn.Module) -> frozenset[str]:
    """Names of what travels, is a floating-point number and no parameter, BatchNorm's statistics apart."""
    return frozenset(
        name
        for name, tensor in travelling(model).items()
        if tensor.is_floating_point()
        and not isinstance(tensor, nn.Parameter)
        and name.rpartition(".")[2] not in STATISTICS
    )


def load_arrays(model: nn.Module, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Overwrite what travels; the inverse of `arrays_of`.

    Raises
    ------
    TaskError
        If the arrays are of another model.
    """
    state = travelling(model)
    if state.keys() != arrays.keys():
        odd = sorted(state.keys() ^ arrays.keys())
        raise TaskError(f"arrays do not fit the model: {odd[0]!r} is on one side only", "train the model sent")
    with torch.no_grad():
        for name, tensor in state.items():
            array = arrays[name]
            if tuple(tensor.shape) != array.shape:
                raise TaskError(
                    f"array {name!r} has shape {array.shape}, the model's is {tuple(tensor.shape)}",
                    "use the same model on every node",
                )
            tensor.copy_(torch.from_numpy(np.require(array, requirements="W")))


def check_model(model: nn.Module) -> None:
    """Refuse a model that cannot be trained here, before anything is started.

    Raises
    ------
    TaskError
        If it has lazy weights or weights on no device, no trainable ones or some that ``state_dict`` does not give, or
        anything that travels is not finite or has no plain array: complex, sparse and quantised tensors.
    """
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if is_lazy(tensor):
            raise TaskError(
                f"parameter {name!r} of the model is lazy: it has no shape before the first batch",
                "call the model once on a batch inside model(), or name the sizes",
            )
        if tensor.is_meta:
            raise TaskError(
                f"{name!r} of the model is on the meta device: it has no values",
                "make the model on the CPU, or give it values with to_empty() and an initialisation",
            )
        if tensor.is_quantized or tensor.layout is not torch.strided:
            kind = tensor.dtype if tensor.is_quantized else tensor.layout
            raise TaskError(
                f"{name!r} of the model is no plain tensor ({kind})", "hold it dense, and in a type such as float32"
            )
    travels = travelling(model)
    for name, tensor in travels.items():
        _check_travels(name, tensor)
    sent = set(map(id, travels.values()))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in sent:
            raise TaskError(
                f"the model's state_dict() has no {name!r}, or a copy of it: what it learns would be lost",
                "let state_dict() give every trainable parameter as it is, or freeze it: requires_grad = False",
            )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise TaskError("the model has no trainable parameter", "leave requires_grad set on what is to be trained")


def _check_travels(name: str, tensor: Tensor) -> None:
    if tensor.is_complex():
        raise TaskError(
            f"{name!r} of the model is complex ({tensor.dtype})",
            "hold real and imaginary parts as two real tensors, and join them with torch.complex in forward(); "
            "a constant buffer may be registered with persistent=False",
        )
    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
        raise TaskError(
            f"{name!r} of the model is not finite before the first step",
            "initialise it; a constant buffer, such as a mask of -inf, may be registered with persistent=False",
        )


def layout_text(arrays: Mapping[str, NDArray[Any]]) -> str:
    """What travels, in short: how many values in how many arrays, and a hash of names, shapes and types."""
    layout = Layout.of(arrays)
    return f"{layout.size} values in {len(layout.entries)} arrays ({layout.hash.hex()[:16]})"


def arrays_text(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Names, shapes and types of the arrays that travel, so that people see what differs; at most ``MOST_NAMED``."""
    entries = Layout.of(arrays).entries
    named = [f"{each.name[:LONGEST_NAME]} {each.dtype}{list(each.shape)}" for each in entries[:MOST_NAMED]]
    return ", ".join(named) + (f" and {len(entries) - MOST_NAMED} more" if len(entries) > MOST_NAMED else "")


def frozen_hash(model: nn.Module) -> str:
    """SHA-256 over the frozen parameters' names, types, shapes and values; empty where none is frozen."""
    digest, found = hashlib.sha256(), False
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            found = True
            digest.update(f"{name}|{parameter.dtype}|{tuple(parameter.shape)}\n".encode())
            values = parameter.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8)
            digest.update(values.numpy().data)
    return digest.hexdigest() if found else ""


def constants_text(model: nn.Module) -> str:
    """What the model computes with and nobody sends: its buffers registered with ``persistent=False``.

    Integers are hashed. Floats are described by ``log rms``, ``mean(x) / rms``, ``mean(x i / N) / rms`` and the count
    of values that are not finite, since processors of different makes round sines and exponentials differently; whoever
    compares allows for that. Empty where there is no such buffer.
    """
    travels = model.state_dict(keep_vars=True).keys()
    apart = {name: buffer for name, buffer in model.named_buffers() if name not in travels}
    named = [
        f"{name[:LONGEST_NAME]} {str(buffer.dtype).removeprefix('torch.')}{list(buffer.shape)} {_content(buffer)}"
        for name, buffer in [*apart.items()][:MOST_NAMED]
    ]
    return ", ".join(named) + (f" and {len(apart) - MOST_NAMED} more" if len(apart) > MOST_NAMED else "")


def _content(buffer: Tensor) -> str:
    values = buffer.detach().to("cpu").contiguous()
    if not (values.is_floating_point() or values.is_complex()):
        return f"#{hashlib.sha256(values.reshape(-1).view(torch.uint8).numpy().data).hexdigest()[:16]}"
    real = torch.view_as_real(values) if values.is_complex() else values
    x_N = real.reshape(-1).double().numpy()  # N = values
    finite_N = np.isfinite(x_N)
    broken = int((~finite_N).sum())
    x_N = np.where(finite_N, x_N, 0.0)
    rms = math.sqrt(float(np.square(x_N).mean())) if x_N.size else 0.0
    if not rms:
        return f"0 {broken}"
    ramp_N = np.linspace(0.0, 1.0, x_N.size)
    return f"{math.log(rms):.6f} {x_N.mean() / rms:.6f} {(x_N * ramp_N).mean() / rms:.6f} {broken}"
