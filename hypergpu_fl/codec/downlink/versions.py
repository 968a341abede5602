"""The downlink as the server sees it: versions of the model, published once and shared by all nodes.

Keeping what each node has seen would cost one dense vector per node. Instead, all nodes share one chain of views
(`hypergpu_fl.codec.downlink.views`); the server holds the latest view and the last steps. All it knows of a node is the
version that the node has acknowledged. A node that missed some versions gets the steps in between; a node that is new,
or was away for too long, gets a whole view. The chain need not follow every version. What it lacks of the latest
version goes to each node as an extra, which is cheaper than many steps for a node that comes rarely. Memory: two
vectors (model and view), the chain's first blob, steps within ``max_bytes``, and for the current version one blob per
requested level. Nothing grows with the number of nodes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypergpu_fl.codec.decoder import decode
from hypergpu_fl.codec.downlink.views import EXTRA, MODEL_ONLY, WHOLE_VIEW, first_view, move, pack
from hypergpu_fl.codec.encoder import encode
from hypergpu_fl.codec.format.checksum import checksum
from hypergpu_fl.codec.levels import LEVELS, level
from hypergpu_fl.errors import UsageError
from strategies.model.layout import Arrays, Layout, Vector

MODEL_LEVELS = ("raw", "fp32", "fp16", "bf16")  # as good as the model itself: sent whole, without a view
_WHOLE = "\0view"  # key of the current view's blob among the extras


@dataclass(frozen=True, slots=True)
class Download:
    """A message for a node.

    ``view`` is the version that it continues, -1 if it needs none; ``holds`` is the view version that the node holds
    afterwards, to be passed to the next `ModelVersions.download` once the node has acknowledged this one.
    """

    blob: bytes
    version: int
    view: int
    holds: int


@dataclass(frozen=True, slots=True)
class _Step:
    start: int
    end: int
    blob: bytes


class ModelVersions:
    """Bounded store of the versions nodes may hold.

    Parameters
    ----------
    layout : Layout
        The model's layout.
    chain : str
        Level of the common steps: the thinnest level any node is served.
    max_bytes : int
        Bound for the steps kept.
    """

    def __init__(self, layout: Layout, *, chain: str = "top32", max_bytes: int = 64 << 20) -> None:
        if chain in MODEL_LEVELS:
            raise UsageError(f"level {chain!r} cannot carry a chain", "choose int8 or thinner")
        self._layout, self._chain = layout, level(chain).name
        self._max_bytes = max_bytes
        self._steps: deque[_Step] = deque()
        self._extras: dict[str, bytes] = {}
        self._root = b""
        self._id = bytes(8)
        self._root_version = self._version = self._view_version = -1
        self._model_P: Vector = np.empty(0, dtype=np.float32)
        self._view_P: Vector = np.empty(0, dtype=np.float32)
        self._checksum = 0
        self._buffers: Mapping[str, NDArray[Any]] = {}

    @property
    def version(self) -> int:
        """Latest version published, -1 for none."""
        return self._version

    @property
    def view_version(self) -> int:
        """Version that the chain has reached, -1 for none."""
        return self._view_version

    @property
    def view_P(self) -> Vector:
        """Latest common view; not to be written to."""
        return self._view_P

    def publish(self, version: int, model_P: Vector, buffers: Arrays, *, extend: bool = True) -> None:
        """Add a version, which must be newer than the last; ``model_P`` is copied.

        ``extend``: whether the chain is extended to it.

        Raises
        ------
        UsageError
            If it is not newer.
        NotFinite
            If the model holds NaN or Inf; nothing changes.
        """
        if version <= self._version or version < 0:
            raise UsageError(f"version {version} follows {self._version}", "publish versions in ascending order")
        if self._version < 0:
            first, self._root = first_view(model_P, buffers, self._layout, version=version)
            self._id, self._view_P = first.chain, first.vector_P
            self._root_version = self._view_version = version
        elif extend:
            difference_P = model_P - self._view_P
            blob = encode(self._chain, difference_P, self._layout, buffers, base=self._view_version)
            move(self._view_P, decode(blob, self._layout))
            self._steps.append(_Step(self._view_version, version, blob))
            self._view_version = version
            while self._steps and sum(len(step.blob) for step in self._steps) > self._max_bytes:
                self._steps.popleft()
        self._version, self._model_P, self._buffers = version, model_P.copy(), dict(buffers)
        self._checksum = checksum(self._view_P.data)
        self._extras = {}
        if self._first() > self._root_version:
            self._root = b""

    def download(self, name: str, held: int) -> Download:
        """Message that brings a node which last acknowledged view ``held`` (-1: none) to the latest version.

        Levels raw, fp32, fp16 and bf16 get the model itself and leave the node's view alone. The others get the
        chain's steps, and an extra if they are finer than the chain or the chain lies behind. A node without a usable
        view gets whichever is cheaper: the chain from its first blob, or the current view whole.
        """
        wanted = level(name)
        if self._version < 0:
            raise UsageError("no model was published yet", "publish version 0 first")
        if wanted.name in MODEL_LEVELS:
            return Download(self._pack([self._extra(name)], MODEL_ONLY, self._version), self._version, -1, held)
        steps, flags = self._since(held), 0
        if steps is None:
            steps, flags, held = self._whole(), WHOLE_VIEW, -1
        if self._view_version < self._version or LEVELS[self._chain].expected_ratio > wanted.expected_ratio:
            steps, flags = [*steps, self._extra(name)], flags | EXTRA
        return Download(self._pack(steps, flags, self._view_version), self._version, held, self._view_version)

    def _first(self) -> int:
        """Oldest version from which the kept steps still lead on."""
        return self._steps[0].start if self._steps else self._view_version

    def _since(self, held: int) -> list[bytes] | None:
        """Steps from ``held`` on; None if they are gone, or cost more than a whole view."""
        if held < self._first() or held > self._view_version:
            return None
        blobs = [step.blob for step in self._steps if step.end > held]
        if not blobs and self._buffers and self._view_version == self._version:
            if not self._steps:
                return None
            blobs = [self._steps[-1].blob]  # again, for the buffers that it carries
        starts = {step.start for step in self._steps} | {self._view_version}
        return blobs if held in starts and sum(map(len, blobs)) <= self._layout.size else None

    def _whole(self) -> list[bytes]:
        """The chain from its first blob where that is kept and small, else the current view, exactly."""
        steps = [step.blob for step in self._steps]
        if self._root:
            whole = self._extra(_WHOLE) if sum(map(len, steps)) > len(self._root) else b""
            if not whole or len(self._root) + sum(map(len, steps)) <= len(whole):
                return [self._root, *steps]
        return [self._extra(_WHOLE)]

    def _extra(self, name: str) -> bytes:
        if name not in self._extras:
            if name == _WHOLE:
                codec, values_P, version = "fp32", self._view_P, self._view_version
            else:
                values_P = self._model_P if name in MODEL_LEVELS else self._model_P - self._view_P
                codec, version = name, self._version
            self._extras[name] = encode(codec, values_P, self._layout, self._buffers, base=version)
        return self._extras[name]

    def _pack(self, parts: list[bytes], flags: int, version: int) -> bytes:
        return pack(parts, flags, self._id, version, 0 if flags == MODEL_ONLY else self._checksum)
