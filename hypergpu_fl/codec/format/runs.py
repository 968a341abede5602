"""Which values of the flat vector are BatchNorm running statistics.

P = all values, M = main values, S = statistics, M + S = P.

A running mean or variance is an average, not a gradient: dropping most of its changes leaves a variance that does
not belong to its mean. So statistics are set apart and sent whole, in float16.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from strategies.model.layout import Layout, Run, Vector
from strategies.model.statistics import NAMES


@dataclass(frozen=True, slots=True)
class Runs:
    """The vector's runs of main values and of statistics, each as (start, stop)."""

    main: tuple[Run, ...]
    statistics: tuple[Run, ...]

    @property
    def n_main(self) -> int:
        """M."""
        return sum(stop - start for start, stop in self.main)

    @property
    def n_statistics(self) -> int:
        """S."""
        return sum(stop - start for start, stop in self.statistics)

    def positions(self, index_M: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """Where in the vector main values of these indices lie."""
        if not self.statistics:
            return index_M
        lengths = np.array([stop - start for start, stop in self.main])
        first = np.concatenate(([0], np.cumsum(lengths)[:-1]))
        shift = np.array([start for start, _ in self.main]) - first
        run = np.searchsorted(first, index_M, side="right") - 1
        moved: NDArray[np.uint32] = (index_M + shift[run]).astype(np.uint32)
        return moved


def take(vector_P: Vector, runs: tuple[Run, ...]) -> Vector:
    """Values of the runs, one after the other; the vector itself where one run covers it."""
    if runs == ((0, vector_P.size),):
        return vector_P
    return np.concatenate([vector_P[start:stop] for start, stop in runs] or [vector_P[:0]])


def put(vector_P: Vector, runs: tuple[Run, ...], values: Vector) -> None:
    """Inverse of `take`."""
    at = 0
    for start, stop in runs:
        vector_P[start:stop] = values[at : at + stop - start]
        at += stop - start


@lru_cache(maxsize=8)
def runs_of(layout: Layout) -> Runs:
    """The runs of a model; adjoining entries of one kind form one run."""
    runs: tuple[list[Run], list[Run]] = ([], [])
    for entry in layout.entries:
        if not entry.is_float or entry.size == 0:
            continue
        kind = runs[entry.name.rpartition(".")[2] in NAMES]
        start, stop = entry.offset, entry.offset + entry.size
        if kind and kind[-1][1] == start:
            kind[-1] = (kind[-1][0], stop)
        else:
            kind.append((start, stop))
    return Runs(tuple(runs[0]), tuple(runs[1]))
