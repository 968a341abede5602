"""Update compression: the same learning for a hundredth of the bytes, both ways.

- `encode`, `encode_with_feedback`, `decode`: an update to one blob and back (`hypergpu_fl.codec.blob`).
- `LEVELS`, `level`: how small, and what it is expected to cost.
- `ResidualStore`: what a node has not sent yet, on its disk, spent only on acknowledgement.
- `ModelVersions`, `apply`, `ViewStore`: the downlink, server's and node's side (`hypergpu_fl.codec.views`).
- `codec_mod`, `Compressed`: the same around any ClientApp and any strategy (`hypergpu_fl.codec.mod`).
- `blob_record`, `blob_of`: a blob in a Flower record.

Attributes are imported at first use: a node that asks only for the levels' names does not wait for a compiler.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hypergpu_fl.codec.compressed import Compressed as Compressed
    from hypergpu_fl.codec.decoder import Decoded as Decoded
    from hypergpu_fl.codec.decoder import decode as decode
    from hypergpu_fl.codec.encoder import encode as encode
    from hypergpu_fl.codec.encoder import encode_with_feedback as encode_with_feedback
    from hypergpu_fl.codec.levels import LEVELS as LEVELS
    from hypergpu_fl.codec.levels import Level as Level
    from hypergpu_fl.codec.levels import level as level
    from hypergpu_fl.codec.mod import codec_mod as codec_mod
    from hypergpu_fl.codec.records import blob_of as blob_of
    from hypergpu_fl.codec.records import blob_record as blob_record
    from hypergpu_fl.codec.residuals import ResidualStore as ResidualStore
    from hypergpu_fl.codec.versions import Download as Download
    from hypergpu_fl.codec.versions import ModelVersions as ModelVersions
    from hypergpu_fl.codec.views import Received as Received
    from hypergpu_fl.codec.views import View as View
    from hypergpu_fl.codec.views import ViewStore as ViewStore
    from hypergpu_fl.codec.views import apply as apply
    from hypergpu_fl.codec.views import first_view as first_view

_HOME = {
    "LEVELS": "levels",
    "Level": "levels",
    "level": "levels",
    "encode": "encoder",
    "encode_with_feedback": "encoder",
    "Decoded": "decoder",
    "decode": "decoder",
    "ResidualStore": "residuals",
    "ModelVersions": "versions",
    "Download": "versions",
    "Received": "views",
    "View": "views",
    "ViewStore": "views",
    "apply": "views",
    "first_view": "views",
    "codec_mod": "mod",
    "Compressed": "compressed",
    "blob_of": "records",
    "blob_record": "records",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
