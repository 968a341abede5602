"""Tensors and state dicts in formats others read: JSON, MessagePack, safetensors. No pickle anywhere.

JSON: ``{"dtype": "float32", "shape": [2, 3], "base64": "..."}``, little-endian, C order. Base64 costs a third;
lists of numbers would cost six times as much and 140 times the time.

MessagePack: a tensor is extension type 1, whose content is the MessagePack array ``[dtype, [shape], bytes]``; a state
dict is extension type 2, whose content is ``[1, [[name, tensor], ...]]`` (1: schema version). A tensor held under
several names (tied weights) is written once: the further names hold the index of the first one's entry.

Model states on disk are safetensors files (https://github.com/huggingface/safetensors).

Tensors may be torch tensors or numpy arrays; reading gives torch tensors, since numpy lacks bfloat16.
"""

from __future__ import annotations

import base64
import binascii
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hypergpu_fl.codec.errors import Malformed
from strategies.layout import Layout

DTYPES: Mapping[str, torch.dtype] = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.bool,
    )
}
TENSOR_EXT, STATE_EXT = 1, 2
SCHEMA = 1
MOST_BYTES = 16 << 30
MOST_DIMENSIONS = 64  # as in numpy
_REMEDY = "write it with the same release"

Value = Tensor | NDArray[Any]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of an update: as float32 values and buffers, as encoded, and as the Flower array that carries it."""

    logical: int
    encoded: int
    wire: int

    @property
    def ratio(self) -> float:
        """Logical bytes over wire bytes."""
        return self.logical / self.wire


def sizes(blob: bytes, layout: Layout) -> Sizes:
    """Size figures of a blob."""
    from hypergpu_fl.codec.records import blob_record
    from strategies import wire

    buffers = sum(e.size * np.dtype(e.dtype).itemsize for e in layout.entries if not e.is_float)
    return Sizes(4 * layout.size + buffers, len(blob), len(blob_record(blob)[wire.BLOB].data))


def tensor_to_json(tensor: Value) -> dict[str, Any]:
    """JSON-ready dict of a tensor."""
    dtype, shape, content = _parts(tensor)
    return {"dtype": dtype, "shape": shape, "base64": base64.b64encode(content).decode()}


def tensor_from_json(value: Any) -> Tensor:
    """Inverse of `tensor_to_json`.

    Raises
    ------
    Malformed
        If the value is anything else.
    """
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "base64"}:
        raise Malformed("expected an object with dtype, shape and base64", _REMEDY)
    if not isinstance(value["base64"], str):
        raise Malformed("base64 is not a text", _REMEDY)
    try:
        content = base64.b64decode(value["base64"], validate=True)
    except (binascii.Error, ValueError) as error:
        raise Malformed(f"broken base64: {error}", _REMEDY) from error
    return _tensor(value["dtype"], value["shape"], content)


def tensor_to_msgpack(tensor: Value) -> bytes:
    """MessagePack of a tensor."""
    return _packb(_tensor_ext(tensor))


def tensor_from_msgpack(data: bytes) -> Tensor:
    """Inverse of `tensor_to_msgpack`; raises `Malformed` for anything else."""
    return _tensor_of(_unpackb(data))


def state_to_msgpack(state: Mapping[str, Value]) -> bytes:
    """MessagePack of a state dict; tied tensors once."""
    entries: list[list[Any]] = []
    first: dict[tuple[Any, ...], int] = {}
    for name, tensor in state.items():
        key = _identity(tensor)
        tied = first.setdefault(key, len(entries)) if key else len(entries)
        entries.append([name, _tensor_ext(tensor) if tied == len(entries) else tied])
    return _packb(msgpack.ExtType(STATE_EXT, _packb([SCHEMA, entries])))


def state_from_msgpack(data: bytes) -> dict[str, Tensor]:
    """Inverse of `state_to_msgpack`: tied names share one tensor again.

    Raises
    ------
    Malformed
        If the data are anything else.
    """
    outer = _unpackb(data)
    if not isinstance(outer, msgpack.ExtType) or outer.code != STATE_EXT:
        raise Malformed("not a state dict", _REMEDY)
    content = _unpackb(outer.data)
    if not isinstance(content, list) or len(content) != 2 or content[0] != SCHEMA or not isinstance(content[1], list):
        raise Malformed(f"not schema {SCHEMA} of a state dict", _REMEDY)
    state: dict[str, Tensor] = {}
    tensors: list[Tensor] = []
    for entry in content[1]:
        if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], str) or entry[0] in state:
            raise Malformed("a state dict's entry is not a new name and a tensor", _REMEDY)
        name, value = entry
        if isinstance(value, int) and not isinstance(value, bool):
            if not 0 <= value < len(tensors):
                raise Malformed(f"{name!r} is tied to entry {value}, which does not come before it", _REMEDY)
            tensors.append(tensors[value])
        else:
            tensors.append(_tensor_of(value))
        state[name] = tensors[-1]
    return state


def save_state(path: Path, state: Mapping[str, Value], metadata: Mapping[str, str] | None = None) -> None:
    """Save a model state as safetensors, atomically; tied tensors are written once and named in the metadata."""
    from safetensors.torch import save_file

    unique: dict[str, Tensor] = {}
    ties: dict[str, str] = {}
    first: dict[tuple[Any, ...], str] = {}
    for name, value in state.items():
        tensor = value if isinstance(value, Tensor) else torch.from_numpy(np.asarray(value, order="C"))
        key = _identity(tensor)
        if key and key in first:
            ties[f"tied:{name}"] = first[key]
        else:
            first[key] = name
            # clone: safetensors refuses tensors that share or only partly use their memory
            unique[name] = tensor.detach().cpu().contiguous().clone()
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        save_file(unique, temporary, metadata={**(metadata or {}), **ties, "order": "\n".join(state)})
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_state(path: Path) -> dict[str, Tensor]:
    """Inverse of `save_state`; also reads any other safetensors file.

    Raises
    ------
    Malformed
        If the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            names = file.keys()
            state = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, ValueError) as error:
        raise Malformed(f"{path.name} is not a safetensors file: {error}", "restore it from a copy") from error
    for key, name in metadata.items():
        if key.startswith("tied:"):
            if name not in state:
                raise Malformed(f"{key[5:]!r} is tied to {name!r}, which is missing", "restore it from a copy")
            state[key[5:]] = state[name]
    order = metadata.get("order", "").split("\n")
    return {name: state[name] for name in order} if sorted(order) == sorted(state) else state


def _parts(value: Value) -> tuple[str, list[int], bytes]:
    """Name of the dtype, shape, and content in C order."""
    if isinstance(value, Tensor):
        if value.layout != torch.strided:
            raise Malformed(f"a tensor of layout {value.layout} cannot be written", "make it dense")
        tensor = value.detach().cpu().contiguous()
        content = tensor.view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        dtype, shape = str(tensor.dtype).removeprefix("torch."), list(tensor.shape)
    else:
        array = np.asarray(value, order="C")
        dtype, shape, content = (
            array.dtype.name,
            list(array.shape),
            array.astype(array.dtype.newbyteorder("<")).tobytes(),
        )
    if dtype not in DTYPES:
        raise Malformed(f"dtype {dtype} cannot be written", f"use one of {', '.join(DTYPES)}")
    return dtype, shape, content


def _tensor(dtype: Any, shape: Any, content: Any) -> Tensor:
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise Malformed(f"unknown dtype {str(dtype)[:40]!r}", f"use one of {', '.join(DTYPES)}")
    whole = isinstance(shape, list) and len(shape) <= MOST_DIMENSIONS and all(type(n) is int and n >= 0 for n in shape)
    # an empty tensor may have any shape whose strides can still be counted
    if not whole or math.prod(max(n, 1) for n in shape) > MOST_BYTES or not isinstance(content, bytes):
        raise Malformed("shape or content is not what the format says", _REMEDY)
    kind = DTYPES[dtype]
    if math.prod(shape) * kind.itemsize != len(content):
        raise Malformed(f"{len(content)} bytes for {dtype} of shape {shape}", _REMEDY)
    if kind is torch.bool and content.strip(b"\0\1"):
        raise Malformed("a boolean is neither 0 nor 1", _REMEDY)
    if not content:
        return torch.empty(shape, dtype=kind)
    return torch.frombuffer(bytearray(content), dtype=kind).reshape(shape)


def _tensor_ext(tensor: Value) -> msgpack.ExtType:
    return msgpack.ExtType(TENSOR_EXT, _packb(list(_parts(tensor))))


def _tensor_of(value: Any) -> Tensor:
    if not isinstance(value, msgpack.ExtType) or value.code != TENSOR_EXT:
        raise Malformed("not a tensor", _REMEDY)
    content = _unpackb(value.data)
    if not isinstance(content, list) or len(content) != 3:
        raise Malformed("a tensor is not [dtype, shape, bytes]", _REMEDY)
    return _tensor(*content)


def _packb(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


def _unpackb(data: bytes) -> Any:
    if len(data) > MOST_BYTES:
        raise Malformed(f"{len(data)} bytes of MessagePack", _REMEDY)
    try:
        return msgpack.unpackb(data, raw=False, strict_map_key=True, max_map_len=0)
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise Malformed(f"broken MessagePack: {error}", _REMEDY) from error


def _identity(value: Value) -> tuple[Any, ...]:
    """Same for tensors that are one and the same piece of memory; empty where there is nothing to share."""
    if not isinstance(value, Tensor) or not value.numel():
        return ()
    return (value.data_ptr(), value.device, value.dtype, tuple(value.shape), value.stride())
