"""What a model measures and counts besides what it learns: BatchNorm's running statistics, and its counters.

They are not gradients, so server momentum does not move them and the update's norm leaves them out. Their domain is
known: a variance is not negative, a counter is whole and grows by steps. No single update may decide them. All updates
measure the same quantity whatever their weight, so each counts once. And no round may throw them far from where the
model has them, even if half of its updates or more are hostile, which decides a median.

Only two kinds of arrays are taken as such, by the names that torch gives them: floating-point ``running_mean`` and
``running_var``, and integer ``num_batches_tracked``. Every other integer or boolean buffer is part of the model's
design, such as a table of indices in which one foreign number ends an evaluation: nodes cannot change it.

Names used here: K = updates of the round, S = statistics among the model's values, P = all floating-point values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from strategies.fleet.outliers import MAD_TO_SIGMA
from strategies.model.aggregation import Update
from strategies.model.layout import Arrays, Layout, Run, Vector, put, take

MEAN: Final = "running_mean"
VARIANCE: Final = "running_var"
COUNTER: Final = "num_batches_tracked"
NAMES: Final = (MEAN, VARIANCE)
FURTHEST: Final = 6.0  # deviations from the round's median that one update's statistic may lie
# In one round, a variance may change by the square of this factor, and a mean by this many standard deviations, so that
# no layer's output becomes more than 3 times as large.
LEAP: Final = 3.0
FRESH: Final = (0.0, 1.0)  # mean and variance of a layer that has seen nothing
EPSILON: Final = 1e-5  # torch's: below it, a variance makes no difference
LARGEST: Final = 1e12  # of a statistic


class Statistics:
    """Collects the statistics of a round's updates and merges them into the model's."""

    def __init__(self, layout: Layout) -> None:
        self.runs: tuple[Run, ...] = layout.runs(NAMES)
        self._layout = layout
        self._changes: list[Vector] = []
        self._counters: list[tuple[Mapping[str, NDArray[Any]], int]] = []

    def add(self, update: Update, *, steps: int) -> None:
        """Keep an update's statistics, which are few values; ``steps`` are those that its node was asked for."""
        if self.runs:
            self._changes.append(update.at(self.runs))
        if update.buffers:
            self._counters.append((update.buffers, steps))

    def replace(self, stepped_P: Vector, before_P: Vector) -> None:
        """Put the mean of the updates' statistics into ``stepped_P``, in place of what a server step made of them.

        ``before_P`` is the model that the updates change. Each value counts as far as it lies within ``FURTHEST``
        deviations of the round's median (``1.4826 MAD``). Their mean is taken as far as it lies within ``LEAP`` of
        the model's, see ``_bounds``.
        """
        if not self.runs or not self._changes:
            return
        before_S = take(before_P, self.runs).astype(np.float64)
        found_KS = np.stack(self._changes).astype(np.float64) + before_S
        median_S = np.median(found_KS, axis=0)
        reach_S = FURTHEST * MAD_TO_SIGMA * np.median(np.abs(found_KS - median_S), axis=0)
        mean_S = np.clip(found_KS, median_S - reach_S, median_S + reach_S).mean(axis=0)
        put(stepped_P, self.runs, np.clip(mean_S, *self._bounds(before_P)))

    def counted(self, known: Arrays) -> Arrays:
        """The model's counters after the round, from the ``known`` buffers before it.

        Of each update counts what lies between the model's counter and that plus the node's steps, since a counter
        never falls and counts batches. The result is the element-wise median; of two middle values the lower, so that
        counters stay whole.
        """
        counters = {n: a for n, a in known.items() if n.rpartition(".")[2] == COUNTER and a.dtype.kind in "iu"}
        return {
            name: _lower_median([_within(said[name], array, steps) for said, steps in self._counters if name in said])
            for name, array in counters.items()
            if any(name in said for said, _ in self._counters)
        }

    def _bounds(self, before_P: Vector) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Shape (S,): the least and the largest value that each statistic may have after the round.

        ``var / 9 .. 9 (var + eps)`` for a variance, ``mean -+ 3 sqrt(var + eps)`` for a mean. A mean without a variance
        beside it moves by 3 of its own size, at least by 3. What a layer begins with says nothing of the data, which
        may be pixels of 0 to 65,535, so there the domain alone is the bound: a first round that throws the model far is
        undone as an explosion.
        """
        now = {
            entry.name: before_P[entry.offset : entry.offset + entry.size].astype(np.float64)
            for entry in self._layout.entries
            if entry.is_float and entry.name.rpartition(".")[2] in NAMES
        }
        low, high = [], []
        for name, values in now.items():
            layer = name.removesuffix(VARIANCE).removesuffix(MEAN)
            mean, variance = (now.get(layer + kind) for kind in NAMES)
            if mean is None or variance is None or mean.size != variance.size:
                mean = variance = None
            if name.endswith(VARIANCE):
                least, most = values / LEAP**2, (values + EPSILON) * LEAP**2
            else:
                deviation = np.maximum(1.0, np.abs(values)) if variance is None else np.sqrt(variance + EPSILON)
                least, most = values - LEAP * deviation, values + LEAP * deviation
            if mean is not None and variance is not None:
                fresh = (mean == FRESH[0]) & (variance == FRESH[1])
                least[fresh], most[fresh] = 0.0 if name.endswith(VARIANCE) else -LARGEST, LARGEST
            low.append(least)
            high.append(most)
        return np.clip(np.concatenate(low), -LARGEST, LARGEST), np.clip(np.concatenate(high), -LARGEST, LARGEST)


def _within(said: NDArray[Any], known: NDArray[Any], steps: int) -> NDArray[Any]:
    largest = np.iinfo(known.dtype).max
    room = largest - np.maximum(known, 0)
    return np.asarray(np.clip(said, known, known + np.minimum(room, min(steps, largest)).astype(known.dtype)))


def _lower_median(arrays: list[NDArray[Any]]) -> NDArray[Any]:
    ranked: NDArray[Any] = np.sort(np.stack(arrays), axis=0)[(len(arrays) - 1) // 2]
    return np.asarray(ranked)
