"""Types of the values in the ledger's files, and a reader for files that anyone may have written.

Hashes, signatures and raw transactions are lower-case hex with ``0x``, addresses are EIP-55, amounts are wei as decimal
strings. Each value has one spelling, and there are no defaults, unknown keys or repeated keys. So a file in which any
meaningful byte was changed either says something else or is refused.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError, ValidationInfo

from hypergpu_fl.errors import VerificationError
from hypergpu_fl.keccak import checksum_address


def _unhex(value: Any, info: ValidationInfo) -> Any:
    if info.mode == "python" and isinstance(value, bytes):
        return value
    if not isinstance(value, str) or not value.startswith("0x"):
        raise ValueError("not a 0x-prefixed hexadecimal string")
    raw = bytes.fromhex(value[2:])
    if value[2:] != raw.hex():
        raise ValueError("hexadecimal digits must be lower-case, without blanks")
    return raw


def _undecimal(value: Any, info: ValidationInfo) -> Any:
    if info.mode == "python" and isinstance(value, int):
        return value
    if not isinstance(value, str) or len(value) > 78 or not value.isascii() or not value.isdigit():
        raise ValueError("not a decimal string")
    if value != "0" and value[0] == "0":
        raise ValueError("leading zeros")
    return int(value)


def _unsigned_or_not(value: Any, info: ValidationInfo) -> Any:
    if isinstance(value, str) and value.startswith("-"):
        magnitude = _undecimal(value[1:], info)
        if not magnitude:
            raise ValueError("minus zero")
        return -magnitude
    return _undecimal(value, info)


def _checksummed(value: Any) -> Any:
    if not isinstance(value, str) or len(value) != 42 or checksum_address(bytes.fromhex(value[2:])) != value:
        raise ValueError("not an EIP-55 address")
    return value


_as_hex = PlainSerializer(lambda value: "0x" + value.hex(), return_type=str)
_as_decimal = PlainSerializer(str, return_type=str)
Data = Annotated[bytes, BeforeValidator(_unhex), Field(max_length=1 << 17), _as_hex]
Hash = Annotated[bytes, BeforeValidator(_unhex), Field(min_length=32, max_length=32), _as_hex]
Signature = Annotated[bytes, BeforeValidator(_unhex), Field(min_length=65, max_length=65), _as_hex]
Amount = Annotated[int, BeforeValidator(_undecimal), Field(ge=0, lt=2**256), _as_decimal]
Signed = Annotated[int, BeforeValidator(_unsigned_or_not), Field(ge=-(2**255), lt=2**255), _as_decimal]
Address = Annotated[str, BeforeValidator(_checksummed)]
U64 = Annotated[int, Field(ge=0, lt=2**64)]
U32 = Annotated[int, Field(ge=0, lt=2**32)]
U64Text = Annotated[int, BeforeValidator(_undecimal), Field(ge=0, lt=2**64), _as_decimal]
U32Text = Annotated[int, BeforeValidator(_undecimal), Field(ge=0, lt=2**32), _as_decimal]
Siblings = Annotated[list[Hash], Field(max_length=64)]
"""A Merkle proof; no tree over uint32 indices is deeper."""


class Record(BaseModel):
    """Base of what the files hold: frozen, no unknown keys, no conversion between types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


R = TypeVar("R", bound=Record)


def parse(kind: type[R], text: str | bytes, what: str) -> R:
    """Read a record of `kind` from JSON that anyone may have written.

    Raises
    ------
    VerificationError
        If the text is no such record; says where in `what`, and names the round if that is known.
    """
    remedy = "the file was altered or cut off; take it from its source again"
    try:
        record = kind.model_validate_json(text)  # first, since pydantic bounds the nesting and json does not
        json.loads(text if isinstance(text, str) else text.decode(), object_pairs_hook=_without_repeats)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = first["loc"]
        place = ".".join(str(part) for part in where) or what
        number = f"round {int(where[1]) + 1}: " if len(where) > 1 and where[0] == "rounds" else ""
        raise VerificationError(f"{number}{place}: {first['msg']}", remedy) from None
    except ValueError as error:
        raise VerificationError(f"{what}: {error}", remedy) from None
    return record


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse repeated keys: JSON readers differ in which of two equal keys they keep."""
    found = dict(pairs)
    if len(found) != len(pairs):
        (name, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the key {name!r} stands twice in one object")
    return found
