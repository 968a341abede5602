"""What a model measures and counts besides what it learns: BatchNorm's running statistics, and its counters.

They are not gradients, so server momentum does not move them and the update's norm leaves them out. Their domain is
known: a variance is not negative, a counter is whole and grows by steps. All nodes measure the same quantity whatever
their weight, so each has one vote, its latest, and the median decides. Votes are kept over a few rounds: a round may be
half hostile by chance, or because hostile nodes answer more often than others, where few of all nodes are. And no round
may throw the statistics far from where the model has them, for the first rounds know few nodes.

Only two kinds of arrays are taken as such, by the names that torch gives them: floating-point ``running_mean`` and
``running_var``, and integer ``num_batches_tracked``. Every other integer or boolean buffer is part of the model's
design, such as a table of indices in which one foreign number ends an evaluation: nodes cannot change it.

Names used here: K = nodes that vote, S = statistics among the model's values, P = all floating-point values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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
FURTHEST: Final = 6.0  # deviations from the median beyond which a vote is left out
# Older votes fill a round up to this many. Where 30 nodes of 100 are hostile, half of 32 or more are so in one round of
# 80. The votes of a larger round all count: else those who answer last would decide alone.
NODES: Final = 32
STEPS: Final = 10  # for which a vote is kept: the model moves on, and a node may have left
# In one round, a variance may change by the square of this factor, and a mean by this many standard deviations, so that
# no layer's output becomes more than 3 times as large.
LEAP: Final = 3.0
FRESH: Final = (0.0, 1.0)  # mean and variance of a layer that has seen nothing
EPSILON: Final = 1e-5  # torch's: below it, a variance makes no difference
LARGEST: Final = 1e12  # of a statistic


@dataclass(frozen=True, slots=True)
class Vote:
    """The statistics that a node's latest update would give the model, shape (S,), and how many steps ago it did."""

    values_S: Vector
    age: int = 0


Votes = Mapping[int, Vote]
"""Votes by node, the latest last."""


class Statistics:
    """Collects the statistics of a round's updates and merges them into the model's."""

    def __init__(self, layout: Layout) -> None:
        self.runs: tuple[Run, ...] = layout.runs(NAMES)
        self._layout = layout
        self._changes: dict[int, Vector] = {}
        self._counters: list[tuple[Mapping[str, NDArray[Any]], int]] = []

    def add(self, update: Update, *, node: int, steps: int) -> None:
        """Keep the statistics in an update of this node, which are few values; ``steps`` are those it was asked for."""
        if self.runs:
            self._changes.pop(node, None)
            self._changes[node] = update.at(self.runs)
        if update.buffers:
            self._counters.append((update.buffers, steps))

    def replace(self, stepped_P: Vector, before_P: Vector, votes: Votes) -> Votes:
        """Put the nodes' median statistics into ``stepped_P``, in place of what a server step made of them.

        ``before_P`` is the model that the updates change, ``votes`` are those of the steps before. Values further than
        ``FURTHEST`` deviations (``1.4826 MAD``) from the median are left out, and the median of the others is taken as
        far as it lies within ``LEAP`` of the model's, see ``_bounds``. Returns the votes after this step.
        """
        if not self.runs or not self._changes:
            return votes
        before_S = take(before_P, self.runs)
        older = {node: Vote(vote.values_S, vote.age + 1) for node, vote in votes.items() if vote.age < STEPS}
        newer = {node: Vote(before_S + change_S) for node, change_S in self._changes.items()}
        kept = [(node, vote) for node, vote in older.items() if node not in newer] + list(newer.items())
        voting = kept[-max(NODES, len(newer)) :]
        found_KS = np.stack([vote.values_S for _, vote in voting]).astype(np.float64)
        apart_KS = np.abs(found_KS - np.median(found_KS, axis=0))
        found_KS[apart_KS > FURTHEST * MAD_TO_SIGMA * np.median(apart_KS, axis=0)] = np.nan
        put(stepped_P, self.runs, np.clip(np.nanmedian(found_KS, axis=0), *self._bounds(before_P)))
        return dict(kept[-NODES:])

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
