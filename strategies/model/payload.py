"""How models and updates become bytes: the seam between the strategy and an update codec.

The strategy judges a level by its expected ratio and never looks inside a blob.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from strategies.errors import Reason, Refused
from strategies.model.aggregation import DenseUpdate, Update
from strategies.model.layout import Arrays, Layout, Vector
from strategies.planning import Compression


class Payload(Protocol):
    """Encodes models for nodes and decodes their updates."""

    @property
    def levels(self) -> Sequence[Compression]:
        """All levels, from fattest to thinnest."""
        ...

    def publish(self, version: int, model_P: Vector, buffers: Arrays) -> None:
        """Make ``version`` of the model the one that ``model_for`` sends."""
        ...

    def model_for(self, node: str, held: int, level: str) -> bytes:
        """The published model for ``node``, which holds version ``held`` (-1: none), at about ``level``."""
        ...

    def decode(self, blob: bytes) -> Update:
        """The update in ``blob``. Raises ``Refused`` for bytes that are not one."""
        ...


class RawPayload:
    """Little-endian float32 both ways, uncompressed: the strategy's own payload when no codec is plugged in."""

    levels = (Compression("raw", 1.0),)

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._blob = b""

    def publish(self, version: int, model_P: Vector, buffers: Arrays) -> None:
        """See ``Payload.publish``. Buffers are not sent."""
        self._blob = model_P.astype("<f4", copy=False).tobytes()

    def model_for(self, node: str, held: int, level: str) -> bytes:
        """See ``Payload.model_for``."""
        return self._blob

    def decode(self, blob: bytes) -> Update:
        """See ``Payload.decode``."""
        if len(blob) != 4 * self._layout.size:
            raise Refused(Reason.WRONG_MODEL, f"{len(blob)} bytes, expected {4 * self._layout.size}")
        return DenseUpdate(np.frombuffer(blob, dtype="<f4").astype(np.float32, copy=False))
