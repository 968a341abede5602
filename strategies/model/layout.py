"""The model as one flat vector.

Names used here: P = number of floating-point values of the model. Everything that computes on updates
(aggregation, server optimiser, codec) sees one contiguous float32 vector ``model_P``; integer and boolean
buffers travel beside it, unchanged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strategies.errors import LayoutError

Vector = NDArray[np.float32]
Arrays = Mapping[str, NDArray[Any]]
Run = tuple[int, int]  # start and stop in the vector


@dataclass(frozen=True, slots=True)
class ArrayEntry:
    """One array of the model: its name, shape, numpy dtype name, and offset in ``model_P`` (-1 for buffers)."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    offset: int

    @property
    def size(self) -> int:
        """Number of elements; 1 for a 0-d array."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def is_float(self) -> bool:
        """Whether the entry lies in the flat vector."""
        return self.offset >= 0


@dataclass(frozen=True)
class Layout:
    """Order, shapes and dtypes of a model's arrays.

    ``measured`` names the floating-point arrays that are no parameters, BatchNorm's statistics apart: a moving average,
    a scale. They are not part of the model's identity.
    """

    entries: tuple[ArrayEntry, ...]
    measured: frozenset[str] = field(default=frozenset(), compare=False)

    @classmethod
    def of(cls, arrays: Arrays, *, measured: Collection[str] = ()) -> Layout:
        """Layout of ``arrays`` in their own order. Floats of any width count as float32 in the vector."""
        entries: list[ArrayEntry] = []
        offset = 0
        for name, array in arrays.items():
            floating = np.issubdtype(array.dtype, np.floating)
            entries.append(ArrayEntry(name, tuple(array.shape), array.dtype.name, offset if floating else -1))
            offset += array.size if floating else 0
        return cls(tuple(entries), frozenset(measured))

    def as_json(self) -> list[list[Any]]:
        """``[name, shape, dtype]`` of every array, in order."""
        return [[entry.name, list(entry.shape), entry.dtype] for entry in self.entries]

    @classmethod
    def of_json(cls, entries: Sequence[Sequence[Any]]) -> Layout:
        """Inverse of `as_json`."""
        return cls.of({name: np.broadcast_to(np.zeros((), dtype), shape) for name, shape, dtype in entries})

    @cached_property
    def size(self) -> int:
        """P, the length of the flat vector."""
        return sum(entry.size for entry in self.entries if entry.is_float)

    @cached_property
    def hash(self) -> bytes:
        """SHA-256 of names, shapes and dtypes: 32 bytes that name the model's architecture."""
        text = "\n".join(f"{e.name}|{','.join(map(str, e.shape))}|{e.dtype}" for e in self.entries)
        return hashlib.sha256(text.encode()).digest()

    def runs(self, names: Collection[str]) -> tuple[Run, ...]:
        """The runs of the floating-point arrays whose last name is one of ``names``; neighbours are joined."""
        return self._runs(lambda name: name.rpartition(".")[2] in names)

    @cached_property
    def measured_runs(self) -> tuple[Run, ...]:
        """The runs of the arrays in ``measured``."""
        return self._runs(self.measured.__contains__)

    def _runs(self, wanted: Callable[[str], bool]) -> tuple[Run, ...]:
        runs: list[Run] = []
        for entry in self.entries:
            if entry.is_float and entry.size and wanted(entry.name):
                start = runs.pop()[0] if runs and runs[-1][1] == entry.offset else entry.offset
                runs.append((start, entry.offset + entry.size))
        return tuple(runs)

    def flatten(self, arrays: Arrays) -> Vector:
        """Copy the floating-point arrays into one float32 vector of length P.

        Raises
        ------
        LayoutError
            If names or shapes differ from the layout.
        """
        if list(arrays) != [entry.name for entry in self.entries]:
            raise LayoutError(f"expected arrays {[e.name for e in self.entries]}, got {list(arrays)}")
        vector = np.empty(self.size, dtype=np.float32)
        for entry in self.entries:
            array = arrays[entry.name]
            if tuple(array.shape) != entry.shape:
                raise LayoutError(f"array {entry.name!r} has shape {tuple(array.shape)}, expected {entry.shape}")
            if entry.is_float:
                vector[entry.offset : entry.offset + entry.size] = array.reshape(-1)
        return vector

    def buffers(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """Integer and boolean arrays, which are not part of the vector."""
        return {e.name: np.asarray(arrays[e.name]) for e in self.entries if not e.is_float}

    def restore(self, vector: Vector, buffers: Arrays) -> dict[str, NDArray[Any]]:
        """Inverse of ``flatten`` and ``buffers``: arrays in the layout's order, shapes and dtypes."""
        if vector.shape != (self.size,):
            raise LayoutError(f"vector has shape {vector.shape}, expected ({self.size},)")
        return {
            e.name: vector[e.offset : e.offset + e.size].reshape(e.shape).astype(e.dtype, copy=False)
            if e.is_float
            else np.asarray(buffers[e.name])
            for e in self.entries
        }


def take(vector_P: Vector, runs: tuple[Run, ...]) -> Vector:
    """Values of the runs, one after the other; the vector itself where one run covers it."""
    if runs == ((0, vector_P.size),):
        return vector_P
    return np.concatenate([vector_P[start:stop] for start, stop in runs] or [vector_P[:0]])


def put(vector_P: Vector, runs: tuple[Run, ...], values: NDArray[Any]) -> None:
    """Inverse of `take`."""
    at = 0
    for start, stop in runs:
        vector_P[start:stop] = values[at : at + stop - start]
        at += stop - start
