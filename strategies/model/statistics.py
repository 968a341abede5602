"""What a model measures and counts besides what it learns: BatchNorm's running statistics, and integer buffers.

They are not gradients, so server momentum does not move them and the update's norm leaves them out. Their domain is
known: a variance is not negative, a counter is whole and grows by steps. No single update may decide them. All updates
measure the same quantity whatever their weight, so each counts once.

Names used here: K = updates of the round, S = statistics among the model's values, P = all floating-point values.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from strategies.fleet.outliers import MAD_TO_SIGMA
from strategies.model.aggregation import Update
from strategies.model.layout import Arrays, Layout, Run, Vector, put, take

VARIANCE: Final = "running_var"
NAMES: Final = ("running_mean", VARIANCE)
FURTHEST: Final = 6.0  # deviations from the round's median that one update's statistic may lie
LARGEST: Final = 1e12  # of a statistic


class Statistics:
    """Collects the statistics of a round's updates and merges them into the model's."""

    def __init__(self, layout: Layout) -> None:
        self.runs: tuple[Run, ...] = layout.runs(NAMES)
        self._variances = layout.runs((VARIANCE,))
        self._changes: list[Vector] = []
        self._buffers: list[Mapping[str, NDArray[Any]]] = []

    def add(self, update: Update) -> None:
        """Keep an update's statistics, which are few values."""
        if self.runs:
            self._changes.append(update.at(self.runs))
        if update.buffers:
            self._buffers.append(update.buffers)

    def replace(self, stepped_P: Vector, before_P: Vector) -> None:
        """Put the mean of the updates' statistics into ``stepped_P``, in place of what a server step made of them.

        ``before_P`` is the model that the updates change. Each value counts as far as it lies within ``FURTHEST``
        deviations of the round's median (``1.4826 MAD``), and in its domain.
        """
        if not self.runs or not self._changes:
            return
        before_S = take(before_P, self.runs).astype(np.float64)
        found_KS = np.stack(self._changes).astype(np.float64) + before_S
        median_S = np.median(found_KS, axis=0)
        reach_S = FURTHEST * MAD_TO_SIGMA * np.median(np.abs(found_KS - median_S), axis=0)
        mean_S = np.clip(np.clip(found_KS, median_S - reach_S, median_S + reach_S).mean(axis=0), -LARGEST, LARGEST)
        put(stepped_P, self.runs, mean_S)
        for start, stop in self._variances:
            np.maximum(stepped_P[start:stop], 0.0, out=stepped_P[start:stop])

    @cached_property
    def counted(self) -> Arrays:
        """Element-wise medians of the buffers. Of two middle values the lower, so that counters stay whole numbers."""
        names = {name for buffers in self._buffers for name in buffers}
        return {
            name: _lower_median([buffers[name] for buffers in self._buffers if name in buffers])
            for name in sorted(names)
        }


def _lower_median(arrays: list[NDArray[Any]]) -> NDArray[Any]:
    ranked: NDArray[Any] = np.sort(np.stack(arrays), axis=0)[(len(arrays) - 1) // 2]
    return np.asarray(ranked)
