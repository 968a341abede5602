"""Formats others read: what goes in comes out, and anything else is refused."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import msgpack
import numpy as np
import pytest
import torch
from codec_models import MIXED
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hypergpu_fl.codec import encode
from hypergpu_fl.codec import serialise as s
from hypergpu_fl.codec.errors import Malformed
from strategies.layout import Layout

SHAPES = [(), (0,), (3,), (2, 0, 4), (2, 3, 4)]


def tensor(dtype: str, shape: tuple[int, ...]) -> torch.Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 50).to(s.DTYPES[dtype])


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)


@pytest.mark.parametrize("dtype", list(s.DTYPES))
@pytest.mark.parametrize("shape", SHAPES)
def test_tensors_survive_json_and_messagepack(dtype: str, shape: tuple[int, ...]) -> None:
    value = tensor(dtype, shape)
    assert same(s.tensor_from_json(json.loads(json.dumps(s.tensor_to_json(value)))), value)
    assert same(s.tensor_from_msgpack(s.tensor_to_msgpack(value)), value)


def test_json_is_dtype_shape_and_base64() -> None:
    assert s.tensor_to_json(np.array([[1.0, -2.0]], dtype=np.float32)) == {
        "dtype": "float32",
        "shape": [1, 2],
        "base64": base64.b64encode(b"\0\0\x80\x3f\0\0\0\xc0").decode(),
    }


def test_arrays_and_views_are_written_in_c_order() -> None:
    array = np.arange(6, dtype=">i4").reshape(2, 3)
    for value in (array, array.T, torch.arange(6, dtype=torch.int32).reshape(2, 3).T):
        expected = torch.from_numpy(np.ascontiguousarray(np.asarray(value), dtype="<i4"))
        assert same(s.tensor_from_msgpack(s.tensor_to_msgpack(value)), expected)


def tied_state() -> dict[str, torch.Tensor]:
    head = nn.Linear(4, 3, bias=False)
    model = nn.ModuleDict({"first": nn.Linear(4, 3), "norm": nn.BatchNorm1d(3), "head": head, "again": head})
    state = model.state_dict()
    assert state["head.weight"].data_ptr() == state["again.weight"].data_ptr()
    return state | {"half": torch.ones(2, dtype=torch.bfloat16), "none": torch.empty(0)}


@pytest.mark.parametrize("way", ["msgpack", "safetensors"])
def test_state_dicts_survive_with_order_and_ties(tmp_path: Path, way: str) -> None:
    state = tied_state()
    if way == "msgpack":
        data = s.state_to_msgpack(state)
        again = s.state_from_msgpack(data)
    else:
        s.save_state(tmp_path / "m.safetensors", state, {"round": "3"})
        again = s.load_state(tmp_path / "m.safetensors")
        assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]
    assert list(again) == list(state)
    assert all(same(again[name], state[name]) for name in state)
    assert again["head.weight"].data_ptr() == again["again.weight"].data_ptr()


def test_a_tied_tensor_is_written_once() -> None:
    shared = torch.zeros(1000)
    assert (
        len(s.state_to_msgpack({"a": shared, "b": shared}))
        < 4200
        < len(s.state_to_msgpack({"a": shared, "b": shared + 0}))
    )


def test_any_safetensors_file_is_read(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"b": np.ones(2, dtype=np.float32), "a": np.zeros(1, dtype=np.int64)}, tmp_path / "x.safetensors")
    assert same(s.load_state(tmp_path / "x.safetensors")["b"], torch.ones(2))


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    s.save_state(path, {"a": torch.ones(3)})
    for data in (path.read_bytes()[:-1], b"", b"\xff" * 64):
        path.write_bytes(data)
        with pytest.raises(Malformed):
            s.load_state(path)


def pack(dtype: object, shape: object, content: object, code: int = 1) -> bytes:
    return msgpack.packb(msgpack.ExtType(code, msgpack.packb([dtype, shape, content])))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        msgpack.packb({"a": 1}),
        msgpack.packb([1, 2]),
        pack("float32", [1], bytes(4), code=9),
        pack("object", [1], bytes(8)),
        pack("float32", [2**40], bytes(4)),
        pack("float32", [-1], bytes(4)),
        pack("float32", [True], bytes(4)),
        pack("float32", "x", bytes(4)),
        pack("float32", [1], "text"),
        pack("bool", [1], b"\2"),
        pack(7, [1], bytes(4)),
        pack("float32", [1], bytes(4))[:-1],
        b"\x91" * 5000,
    ],
)
def test_what_is_no_tensor_is_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        s.tensor_from_msgpack(data)
    with pytest.raises(Malformed):
        s.state_from_msgpack(data)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"dtype": "float32", "shape": [1], "base64": "!!"},
        {"dtype": "float32", "shape": [1], "base64": 3},
        {"dtype": "float32", "shape": [2], "base64": "AAAAAA=="},
        {"dtype": "f", "shape": [1], "base64": "AAAAAA=="},
    ],
)
def test_what_is_no_json_tensor_is_refused(value: object) -> None:
    with pytest.raises(Malformed):
        s.tensor_from_json(value)


@pytest.mark.parametrize(
    "content",
    [
        [2, []],
        [1, [["a", 0]]],
        [1, [["a", True]]],
        [1, [[3, 0]]],
        [1, ["a"]],
        [1, 3],
        [1],
        "x",
        [1, [["a", msgpack.ExtType(1, msgpack.packb(["bool", [], b"\1"]))]] * 2],
    ],
)
def test_what_is_no_state_is_refused(content: object) -> None:
    with pytest.raises(Malformed):
        s.state_from_msgpack(msgpack.packb(msgpack.ExtType(2, msgpack.packb(content))))


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_reader(data: bytes) -> None:
    for read in (s.tensor_from_msgpack, s.state_from_msgpack):
        with pytest.raises(Malformed):
            read(data)


def test_what_cannot_be_written_is_refused() -> None:
    with pytest.raises(Malformed, match="object"):
        s.tensor_to_json(np.array([None]))


def test_sizes_tell_logical_encoded_and_wire_bytes() -> None:
    layout = Layout.of(MIXED)
    blob = encode("int8", np.ones(layout.size, dtype="f4"), layout, layout.buffers(MIXED), base=0)
    found = s.sizes(blob, layout)
    assert (found.logical, found.encoded) == (4 * layout.size + 8 + 11, len(blob))
    assert found.encoded < found.wire <= found.encoded + 128
    assert found.ratio == found.logical / found.wire


@pytest.mark.parametrize("shape", [[0, 2**47, 2**47], [0] + [2**30] * 3, [1] * 65, [2**47] * 20_000])
def test_shapes_that_no_tensor_can_have_are_refused(shape: list[int]) -> None:
    content = bytes(4 * (shape[0] == 1))
    with pytest.raises(Malformed, match="shape"):
        s.tensor_from_json({"dtype": "float32", "shape": shape, "base64": base64.b64encode(content).decode()})
    packed = msgpack.packb(["float32", shape, content])
    with pytest.raises(Malformed, match="shape"):
        s.tensor_from_msgpack(msgpack.packb(msgpack.ExtType(s.TENSOR_EXT, packed)))


def test_a_sparse_tensor_cannot_be_written() -> None:
    with pytest.raises(Malformed, match="layout"):
        s.tensor_to_msgpack(torch.eye(3).to_sparse())
