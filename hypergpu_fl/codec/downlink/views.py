r"""The downlink as a node sees it: a view of the model, moved along by small steps.

P = values. The server publishes one common chain of views, the same for all nodes:

.. math:: view_v = G(view_{v-1} + decode(C(w_v - view_{v-1})))

with C the chain's level and G rounding to TF32 (10 bits of mantissa), which keeps a whole view exactly
representable in less than half of its float32 bytes. What C leaves out stays in the next difference, so the chain
feeds its own error back. A node that holds ``view_u`` is brought to ``view_v`` by the steps between them; the chain
may pass over versions.

A node that already holds the version gets no step, or the last one again where the model has integer buffers.
The message, little-endian:

======  =====  ============================================================================
offset  bytes  field
======  =====  ============================================================================
0       4      magic ``HGPD``
4       1      format version, 1
5       1      flags: 1 the first part is a whole view, 2 the last part is an extra, 4 the only
               part is a model and no view is concerned
6       2      number of parts
8       8      chain: first 8 bytes of the SHA-256 of the chain's first blob
16      8      version, signed: of the view after all steps; of the model where it is the only part
24      4      checksum of the view after all steps; 0 if no view is concerned
28      4      checksum of the 28 bytes before and of all lengths below
32      ...    per part: ``length: uint64`` and a blob (`hypergpu_fl.codec.format.blob`)
======  =====  ============================================================================

A step's base is the version it starts from; it leads to the next step's base, the last one to the message's
version. An *extra* is ``C'(w - view_v)``, its base the model's version: what the chain left out, or has not reached
yet. Nodes start training from it but do not keep it, so every node stays on the one chain, whatever its level.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypergpu_fl.codec.decoder import Decoded, decode
from hypergpu_fl.codec.encoder import encode
from hypergpu_fl.codec.errors import Corrupt, Malformed, Truncated, UnknownFormat, ViewMissing
from hypergpu_fl.codec.feedback.disk import NodeFolder
from hypergpu_fl.codec.format.blob import RESEND, base_of
from hypergpu_fl.codec.format.checksum import Buffer, checksum
from strategies.model.layout import Arrays, Layout, Vector

MAGIC = b"HGPD"
VERSION = 1
WHOLE_VIEW, EXTRA, MODEL_ONLY = 1, 2, 4
ROOT_LEVEL = "int8"  # of a chain's first view
_HEADER = struct.Struct("<4sBBH8sqI")
_CHECKSUM = struct.Struct("<I")
_LENGTH = struct.Struct("<Q")
_RESYNC = "report that no view is held; the server sends a whole one"


@dataclass(frozen=True, slots=True)
class View:
    """A view held by a node."""

    chain: bytes
    version: int
    vector_P: Vector


@dataclass(frozen=True, slots=True)
class ReceivedModel:
    """What a message brought: the model to train from, and the view to keep (None: keep what is held)."""

    version: int
    model_P: Vector
    buffers: Mapping[str, NDArray[Any]]
    view: View | None


def round_to_grid(vector_P: Vector) -> None:
    """Round to TF32, ties to even, in place: the 13 last bits of every value become zero."""
    from hypergpu_fl.codec.kernels import encode_kernels

    encode_kernels.round_to_grid(vector_P.view(np.uint32))


def move(view_P: Vector, step: Decoded) -> None:
    """Apply one step, in place; server and nodes do exactly the same."""
    step.add_to(view_P, 1.0)
    round_to_grid(view_P)


def first_view(model_P: Vector, buffers: Arrays, layout: Layout, *, version: int = 0) -> tuple[View, bytes]:
    """The view that a chain begins with, made from the model itself, and its blob.

    Nodes build the same first model as the server, so a node without a view can make this one without a download. The
    checksum in every message reveals a node whose first model differs.
    """
    blob = encode(ROOT_LEVEL, model_P, layout, buffers, base=version)
    view_P = decode(blob, layout).dense()
    round_to_grid(view_P)
    return View(hashlib.sha256(blob).digest()[:8], version, view_P), blob


def pack(parts: list[bytes], flags: int, chain: bytes, version: int, view_checksum: int) -> bytes:
    """Put a message together."""
    header = _HEADER.pack(MAGIC, VERSION, flags, len(parts), chain, version, view_checksum)
    lengths = [_LENGTH.pack(len(part)) for part in parts]
    check = _CHECKSUM.pack(checksum(header, *lengths))
    return b"".join([header, check, *(piece for pair in zip(lengths, parts, strict=True) for piece in pair)])


def apply(blob: Buffer, layout: Layout, held: View | None) -> ReceivedModel:
    """Model and view that a message brings to a node holding ``held``, which is left as it is.

    Steps that the node has already made are skipped: a reply may have been lost after the node moved on.

    Raises
    ------
    ViewMissing
        If the steps do not start at a view held here, or do not end at the server's.
    CodecError
        If the message or a blob in it is damaged or malformed.
    """
    flags, chain, version, view_checksum, parts = _unpack(blob)
    if flags & MODEL_ONLY:
        model = decode(parts[0], layout)
        return ReceivedModel(version, model.dense(), model.buffers, None)
    if flags & WHOLE_VIEW:
        whole = decode(parts.pop(0), layout)
        view_P, buffers = whole.dense(), whole.buffers
        round_to_grid(view_P)
        at = whole.base
    elif held is None or held.chain != chain:
        raise ViewMissing("the message continues a view that is not held here", _RESYNC)
    else:
        view_P, buffers, at = held.vector_P.copy(), {}, held.version
    extra_part = parts.pop() if flags & EXTRA else None
    # One step in memory at a time: a message has room for thousands of steps, which are small only while encoded.
    for part, end in zip(parts, [*map(base_of, parts[1:]), version], strict=False):
        step = decode(part, layout)
        buffers = step.buffers
        if at >= end:
            continue
        if step.base != at:
            raise ViewMissing(f"steps start at version {step.base}, version {at} is held here", _RESYNC)
        move(view_P, step)
        at = end
    if at != version or checksum(view_P.data) != view_checksum:
        raise ViewMissing(f"the view held here does not lead to the server's version {version}", _RESYNC)
    view = View(chain, version, view_P)
    if extra_part is None:
        return ReceivedModel(version, view_P, buffers, view)
    extra, model_P = decode(extra_part, layout), view_P.copy()
    extra.add_to(model_P, 1.0)
    return ReceivedModel(extra.base, model_P, extra.buffers, view)


def _unpack(blob: Buffer) -> tuple[int, bytes, int, int, list[memoryview]]:
    data = memoryview(blob).cast("B")
    at = _HEADER.size + _CHECKSUM.size
    if len(data) < at:
        raise Truncated(f"message of {len(data)} bytes has no room for its header of {at}", RESEND)
    magic, format_version, flags, count, chain, version, view_checksum = _HEADER.unpack_from(data)
    if magic != MAGIC or format_version != VERSION:
        raise UnknownFormat(f"message begins with {bytes(data[:5]).hex()}", "run the same release everywhere")
    parts: list[memoryview] = []
    lengths: list[memoryview] = []
    for _ in range(count):
        if at + _LENGTH.size > len(data):
            raise Truncated("message ends between its parts", RESEND)
        lengths.append(data[at : at + _LENGTH.size])
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        if length > len(data) - at:
            raise Truncated(f"message ends inside a part of {length} bytes", RESEND)
        parts.append(data[at : at + length])
        at += length
    if (checksum(data[: _HEADER.size], *lengths),) != _CHECKSUM.unpack_from(data, _HEADER.size):
        raise Corrupt("the message's checksum differs", RESEND)
    if at != len(data) or flags > 7 or (flags & MODEL_ONLY and (flags, count) != (MODEL_ONLY, 1)):
        raise Malformed("the message's parts and flags do not fit together", RESEND)
    if count < bool(flags & WHOLE_VIEW) + bool(flags & EXTRA):
        raise Malformed(f"message of {count} parts announces more", RESEND)
    return flags, chain, version, view_checksum, parts


class ViewStore:
    """The view a node holds, on its disk; parameters as for `hypergpu_fl.codec.feedback.residuals.ResidualStore`."""

    def __init__(self, folder: Path, run: str, node: str, model_hash: bytes, size: int, max_bytes: int) -> None:
        self._files = NodeFolder(folder, run, node, model_hash, max_bytes)
        self._size = size

    def load(self) -> View | None:
        """View held, or None."""
        found = self._files.read("view", self._size)
        return None if found is None else View(found[2], found[1], found[0])

    def save(self, view: View) -> None:
        """Replace the view held."""
        self._files.write("view", view.vector_P, view.version, view.chain)
