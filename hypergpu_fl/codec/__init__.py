"""Update compression: the same learning for a hundredth of the bytes, both ways.

- `encode`, `encode_with_feedback`, `decode`: an update to one blob and back (`hypergpu_fl.codec.format.blob`).
- `LEVELS`, `level`: how small, and what it is expected to cost.
- `ResidualStore`: what a node has not sent yet, on its disk, spent only on acknowledgement.
- `ModelVersions`, `apply`, `ViewStore`: the downlink, server's and node's side (`hypergpu_fl.codec.downlink.views`).
- `codec_mod`, `Compressed`: the same around any ClientApp and any strategy (`hypergpu_fl.codec.any_app.mod`).
- `blob_record`, `blob_of`: a blob in a Flower record.

Attributes are imported at first use: a node that asks only for the levels' names does not wait for a compiler.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hypergpu_fl.codec.any_app.mod import codec_mod as codec_mod
    from hypergpu_fl.codec.any_app.records import blob_of as blob_of
    from hypergpu_fl.codec.any_app.records import blob_record as blob_record
    from hypergpu_fl.codec.any_app.strategy import Compressed as Compressed
    from hypergpu_fl.codec.decoder import decode as decode
    from hypergpu_fl.codec.downlink.versions import ModelVersions as ModelVersions
    from hypergpu_fl.codec.downlink.views import View as View
    from hypergpu_fl.codec.downlink.views import ViewStore as ViewStore
    from hypergpu_fl.codec.downlink.views import apply as apply
    from hypergpu_fl.codec.downlink.views import first_view as first_view
    from hypergpu_fl.codec.encoder import encode as encode
    from hypergpu_fl.codec.encoder import encode_with_feedback as encode_with_feedback
    from hypergpu_fl.codec.feedback.residuals import ResidualStore as ResidualStore
    from hypergpu_fl.codec.levels import LEVELS as LEVELS
    from hypergpu_fl.codec.levels import Level as Level
    from hypergpu_fl.codec.levels import level as level

_HOME = {
    "LEVELS": "levels",
    "Level": "levels",
    "level": "levels",
    "encode": "encoder",
    "encode_with_feedback": "encoder",
    "decode": "decoder",
    "ResidualStore": "feedback.residuals",
    "ModelVersions": "downlink.versions",
    "View": "downlink.views",
    "ViewStore": "downlink.views",
    "apply": "downlink.views",
    "first_view": "downlink.views",
    "codec_mod": "any_app.mod",
    "Compressed": "any_app.strategy",
    "blob_of": "any_app.records",
    "blob_record": "any_app.records",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
