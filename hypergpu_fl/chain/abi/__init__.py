"""The compiled contract, and the encoding of its calls, results and errors.

`HyperGPULedger.json` is written by ``npm run build`` in contracts/; a test recompiles and compares.
"""

from __future__ import annotations

import json
from contextlib import suppress
from functools import cache
from importlib.resources import files
from typing import Any

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError

from hypergpu_fl.keccak import keccak


@cache
def artifact() -> dict[str, Any]:
    """Load the compiler's output: `abi`, `bytecode`, `deployedBytecode`, `compiler`, `settings`."""
    loaded: dict[str, Any] = json.loads(files(__package__).joinpath("HyperGPULedger.json").read_text())
    return loaded


def bytecode() -> bytes:
    """Creation code; the constructor takes nothing."""
    return bytes.fromhex(artifact()["bytecode"][2:])


@cache
def code_hash() -> bytes:
    """Keccak-256 of the code that a deployed contract must have."""
    return keccak(bytes.fromhex(artifact()["deployedBytecode"][2:]))


def _type(parameter: dict[str, Any]) -> str:
    kind: str = parameter["type"]
    if kind.startswith("tuple"):
        return f"({','.join(_type(part) for part in parameter['components'])}){kind[5:]}"
    return kind


@cache
def _members(kind: str) -> dict[str, tuple[bytes, list[str], list[str]]]:
    """Of every function or error: selector, input types, output types."""
    members = {}
    for item in artifact()["abi"]:
        if item["type"] == kind:
            inputs = [_type(parameter) for parameter in item["inputs"]]
            outputs = [_type(parameter) for parameter in item.get("outputs", [])]
            selector = keccak(f"{item['name']}({','.join(inputs)})".encode())[:4]
            members[item["name"]] = (selector, inputs, outputs)
    return members


def encode_call(function: str, *arguments: Any) -> bytes:
    """Calldata of a function: selector and ABI-encoded arguments."""
    selector, inputs, _ = _members("function")[function]
    return selector + encode(inputs, arguments)


def decode_result(function: str, data: bytes) -> tuple[Any, ...]:
    """Decode what a function returned.

    Raises
    ------
    eth_abi.exceptions.DecodingError
        If the data is something else.
    """
    return decode(_members("function")[function][2], data)


def decode_error(data: bytes) -> str:
    """Readable form of revert data, e.g. ``LedgerWrongRound(3, 2)``; the first bytes of what is no error of ours."""
    for name, (selector, inputs, _) in _members("error").items():
        if data[:4] == selector:
            with suppress(DecodingError):  # not our error after all: its bytes are told
                values = (v.hex() if isinstance(v, bytes) else str(v) for v in decode(inputs, data[4:]))
                return f"{name}({', '.join(values)})"
    return f"0x{data[:100].hex()}" if data else "without a reason"
