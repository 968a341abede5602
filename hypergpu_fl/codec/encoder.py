r"""An update to bytes, with error feedback.

What a lossy level leaves out is not lost: it is added to the node's next update (Karimireddy et al.,
arXiv:1901.09847). With ``p = delta + e`` (one float32 addition)

.. math:: \text{decode(wire)} + e' = p

holds to 1e-8 relative, because e' is computed from the very integers that are sent, scales already rounded to
their wire format, and because no level sends more than ``2 p`` or, other than 0, less than ``p / 2**16`` for a
value p: within those bounds ``p - q`` is exact in float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hypergpu_fl.codec.backend import Backend, HostBackend, V
from hypergpu_fl.codec.errors import Malformed
from hypergpu_fl.codec.format.blob import Writer
from hypergpu_fl.codec.format.runs import runs_of
from hypergpu_fl.codec.levels import Level, level
from strategies.errors import LayoutError
from strategies.model.layout import Arrays, Layout, Run, Vector, put, take


def encode(name: str, vector_P: Vector, layout: Layout, buffers: Arrays, *, base: int) -> bytes:
    """Blob of ``vector_P`` at the level ``name``; see `encode_with_feedback`."""
    return encode_with_feedback(name, vector_P, None, layout, buffers, base=base)[0]


def encode_with_feedback(
    name: str,
    vector_P: Vector,
    residual_P: Vector | None,
    layout: Layout,
    buffers: Arrays,
    *,
    base: int,
    out: Vector | None = None,
) -> tuple[bytes, Vector]:
    """Blob of ``vector_P + residual_P``, and the new residual.

    Parameters
    ----------
    name : str
        Level, one of `hypergpu_fl.codec.LEVELS`.
    vector_P, residual_P : Vector
        The update, and what earlier ones left out (None: nothing).
    layout : Layout
        The model's layout.
    buffers : Arrays
        Integer and boolean arrays, sent as they are.
    base : int
        Global version the update is against.
    out : Vector, optional
        Where the new residual goes; may be ``residual_P`` itself, which saves an allocation of the model's size.

    Raises
    ------
    UsageError
        No such level.
    LayoutError
        Vector, residual or buffers do not fit the layout.
    NotFinite
        A value is NaN, Inf or 2**120 and more.
    """
    chosen = level(name)
    vector_P = _checked(vector_P, layout)
    old_P = None if residual_P is None else _checked(residual_P, layout)
    new_P = np.empty(layout.size, dtype=np.float32) if out is None else out
    apart = runs_of(layout)

    def values_of(runs: tuple[Run, ...]) -> HostBackend:
        delta = take(vector_P, runs)
        left_out = new_P if delta is vector_P else np.empty_like(delta)
        return HostBackend(delta, None if old_P is None else take(old_P, runs), left_out)

    blob, residuals = assemble(chosen, values_of(apart.main), values_of(apart.statistics), layout, buffers, base)
    for runs, left in zip((apart.main, apart.statistics), residuals, strict=True):
        if left is not new_P:
            put(new_P, runs, left)
    return blob, new_P


def assemble(
    chosen: Level, main: Backend[V], statistics: Backend[V], layout: Layout, buffers: Arrays, base: int
) -> tuple[bytes, tuple[V, V]]:
    """Blob of values that any backend holds, and what it leaves out of the main values and of the statistics."""
    body = Writer()
    left_out = chosen.write(main, body)
    body.words(statistics.size, chosen.statistics.width, statistics.words(chosen.statistics))
    write_buffers(body, layout, buffers)
    return body.finish(chosen.code, layout.hash, base), (left_out, statistics.residual)


def write_buffers(body: Writer, layout: Layout, buffers: Arrays) -> None:
    """Append the integer and boolean arrays."""
    contents = []
    for entry in layout.entries:
        if entry.is_float:
            continue
        dtype = buffer_dtype(entry.dtype)
        array = np.asarray(buffers[entry.name])
        if array.shape != entry.shape or array.dtype.name != entry.dtype:
            raise LayoutError(f"buffer {entry.name!r} is {array.dtype}{array.shape}, expected {dtype}{entry.shape}")
        contents.append(np.frombuffer(array.astype(dtype).tobytes(), dtype=np.uint8))
    if contents:
        body.raw_bytes(np.concatenate(contents))


def buffer_dtype(name: str) -> np.dtype[Any]:
    """Little-endian dtype of a buffer; only integers and booleans may travel."""
    try:
        dtype = np.dtype(name).newbyteorder("<")
    except TypeError as error:
        raise Malformed(f"unknown dtype {name!r} of a buffer", "store it as an integer array") from error
    if dtype.kind not in "iub":
        raise Malformed(f"dtype {name!r} of a buffer cannot travel", "store it as an integer array")
    return dtype


def _checked(vector_P: Vector, layout: Layout) -> Vector:
    if vector_P.shape != (layout.size,):
        raise LayoutError(f"vector has shape {vector_P.shape}, expected ({layout.size},)")
    return np.ascontiguousarray(vector_P, dtype=np.float32)
