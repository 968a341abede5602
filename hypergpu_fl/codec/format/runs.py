"""Which values of the flat vector are BatchNorm running statistics.

P = all values, M = main values, S = statistics, M + S = P.

A running mean or variance is an average, not a gradient: dropping most of its changes would leave a variance that does
not belong to its mean. So statistics are sent apart from the rest and complete, in float16.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from strategies.model.layout import Layout, Run
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
        """Positions in the vector of the main values with these indices."""
        if not self.statistics:
            return index_M
        lengths = np.array([stop - start for start, stop in self.main])
        first = np.concatenate(([0], np.cumsum(lengths)[:-1]))
        shift = np.array([start for start, _ in self.main]) - first
        run = np.searchsorted(first, index_M, side="right") - 1
        moved: NDArray[np.uint32] = (index_M + shift[run]).astype(np.uint32)
        return moved


@lru_cache(maxsize=8)
def runs_of(layout: Layout) -> Runs:
    """The runs of a model: statistics, and what lies between them."""
    statistics = layout.runs(NAMES)
    edges = [0, *(edge for run in statistics for edge in run), layout.size]
    main = tuple((start, stop) for start, stop in zip(edges[::2], edges[1::2], strict=True) if start < stop)
    return Runs(main, statistics)
