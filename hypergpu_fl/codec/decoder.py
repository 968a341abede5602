"""From bytes to an update that can be weighed, checked and summed without first becoming a dense vector.

Whoever sent the bytes may be hostile. Every size comes from our own layout; a blob that states another size is refused
before anything is allocated for it. Beyond the blob itself, decoding takes no more memory than the model's
float32 size plus one frame a thread.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypergpu_fl.codec.encoder import buffer_dtype
from hypergpu_fl.codec.errors import Malformed, UnknownFormat
from hypergpu_fl.codec.format.blob import RESEND, Reader
from hypergpu_fl.codec.format.bodies import Body, Dense, Sparse
from hypergpu_fl.codec.format.checksum import Buffer
from hypergpu_fl.codec.format.runs import Runs, runs_of
from hypergpu_fl.codec.levels import BY_CODE
from strategies.model.layout import Layout, Run, Vector, take


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded update or model; ``size`` is P."""

    size: int
    base: int
    level: str
    buffers: Mapping[str, NDArray[Any]]
    main: Body
    statistics: Dense
    runs: Runs

    def norm(self) -> float:
        """L2 norm of the main values, in float64: statistics are measured, not learned, and may be of any size."""
        return math.sqrt(self.main.square())

    def at(self, runs: tuple[Run, ...]) -> Vector:
        """Values at these runs of the vector, one after the other."""
        if runs == self.runs.statistics:
            return self.statistics.values()
        return take(self.dense(), runs)

    def finite(self) -> bool:
        """Whether no value is NaN or Inf."""
        return self.main.finite() and self.statistics.finite()

    def add_to(self, total_P: Vector, weight: float) -> None:
        """``total += weight * update``, touching only the values that the update holds."""
        self.main.add_to(total_P, self.runs.main, weight)
        self.statistics.add_to(total_P, self.runs.statistics, weight)

    def kept(self) -> tuple[NDArray[np.uint32] | None, Vector]:
        """See ``Update.kept``: without statistics from a top-k level, with all P values from the others."""
        if isinstance(self.main, Sparse):
            return self.main.index, self.main.value
        return None, self.dense()

    def dense(self) -> Vector:
        """All P values as float32."""
        if isinstance(self.main, Dense) and not self.runs.statistics:
            return self.main.values()  # to the last bit, the sign of a zero included
        vector_P = np.zeros(self.size, dtype=np.float32)
        self.add_to(vector_P, 1.0)
        return vector_P


def decode(blob: Buffer, layout: Layout) -> Decoded:
    """Update in ``blob``, which must be of this layout.

    Raises
    ------
    CodecError
        One of `hypergpu_fl.codec.errors`, if the blob is damaged, of another model or not what an encoder writes.
    """
    body = Reader(blob, layout.hash)
    level = BY_CODE.get(body.level)
    if level is None:
        raise UnknownFormat(f"blob is of level {body.level}", "run the same release on server and nodes")
    runs = runs_of(layout)
    main = level.read(body, runs.n_main)
    if isinstance(main, Sparse):
        main = Sparse(runs.positions(main.index), main.value)
    statistics = Dense(body.planes(runs.n_statistics, level.statistics.width), level.statistics)
    buffers = _read_buffers(body, layout)
    body.finish()
    return Decoded(layout.size, body.base, level.name, buffers, main, statistics, runs)


def _read_buffers(body: Reader, layout: Layout) -> dict[str, NDArray[Any]]:
    entries = [(entry, buffer_dtype(entry.dtype)) for entry in layout.entries if not entry.is_float]
    content = body.raw_bytes(sum(entry.size * dtype.itemsize for entry, dtype in entries))
    buffers, at = {}, 0
    for entry, dtype in entries:
        part = content[at : at + entry.size * dtype.itemsize]
        at += part.size
        if dtype.kind == "b" and part.size and part.max() > 1:
            raise Malformed(f"buffer {entry.name!r} holds a boolean that is neither 0 nor 1", RESEND)
        buffers[entry.name] = part.copy().view(dtype).reshape(entry.shape)
    return buffers
