"""Update compression: the same learning for a hundredth of the bytes, both ways.

- `encode`, `encode_with_feedback`, `decode`: an update to one blob and back (`hypergpu_fl.codec.blob`).
- `LEVELS`, `level`: how small, and what it is expected to cost.

Attributes are imported at first use: a node that asks only for the levels' names does not wait for a compiler.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hypergpu_fl.codec.decoder import Decoded as Decoded
    from hypergpu_fl.codec.decoder import decode as decode
    from hypergpu_fl.codec.encoder import encode as encode
    from hypergpu_fl.codec.encoder import encode_with_feedback as encode_with_feedback
    from hypergpu_fl.codec.levels import LEVELS as LEVELS
    from hypergpu_fl.codec.levels import Level as Level
    from hypergpu_fl.codec.levels import level as level

_HOME = {
    "LEVELS": "levels",
    "Level": "levels",
    "level": "levels",
    "encode": "encoder",
    "encode_with_feedback": "encoder",
    "Decoded": "decoder",
    "decode": "decoder",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
