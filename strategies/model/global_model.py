"""The model under training: its versions, their average, the step by a mean update, and the roll-back.

Nodes train from the latest version. An average of the versions is evaluated and kept, because each step is the mean of
a few nodes whose data differ, and pulls the model a little to their side:

``a_t = (1 - r) a_(t-1) + r w_t`` with ``r = (8 + 1) / (8 + t)``, the polynomial-decay average of Shamir and Zhang
(arXiv 1212.1824, section 4). Whenever training ends, it averages roughly the last ninth of all versions.

Two earlier versions are kept to go back to. The one before the last step costs nothing if that step alone was bad. The
one with the least held-out loss is for a model that went bad in several steps, none of which was an explosion.
``strategies.round.versions`` chooses between them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from strategies.model.aggregation import Aggregator, Update
from strategies.model.axpy import add_scaled
from strategies.model.layout import Arrays, Layout, Run, Vector, put, take
from strategies.model.payload import Payload
from strategies.model.robust import aggregator
from strategies.model.server_optimizer import ServerOptimizer
from strategies.model.statistics import Statistics, Vote, Votes

DECAY = 8
GOOD: Final = ("good", "good_average", "good_buffer", "good_votes")  # the groups of the version before the last step


@dataclass(frozen=True, slots=True)
class ModelStep:
    """A round's step before the server optimiser: from ``base_P`` to ``base_P + moved_P``.

    ``moved_P`` is the updates' mean, with the change of the statistics in their places; ``mean`` knows each update's
    part in it. ``still`` are the runs of the statistics, which no gradient moves.
    """

    base_P: Vector
    moved_P: Vector
    mean: Aggregator
    still: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class KeptVersion:
    """A version to go back to: its model, average and buffers, and the votes that its statistics are the median of."""

    version: int
    vector_P: Vector
    average_P: Vector
    buffers: Arrays
    votes: Votes


@dataclass(frozen=True, slots=True)
class Part:
    """What an update entered a round with, see ``AddUpdate``, and the steps that were asked of it."""

    node: int
    weight: float
    steps: int
    length: float
    asked: int


class GlobalModel:
    """The current version, published through the payload, and the versions that are kept to go back to.

    Parameters
    ----------
    layout, payload, optimizer
        See ``Engine``.
    averaging : bool
        Whether versions are averaged; if not, the average is the latest version.

    Attributes
    ----------
    vector_P : Vector
        The latest version.
    average_P : Vector
        The average.
    good, best : KeptVersion, optional
        The version before the last step, or the one put back since, and the one with the least held-out loss.
    """

    def __init__(self, layout: Layout, payload: Payload, optimizer: ServerOptimizer, *, averaging: bool) -> None:
        self.layout = layout
        self.payload = payload
        self._optimizer = optimizer
        self._averaging = averaging
        self.version = 0
        self.vector_P: Vector = np.zeros(0, dtype=np.float32)
        self.average_P: Vector = self.vector_P
        self.buffers: Arrays = {}
        self.votes: Votes = {}
        self.hash = b""
        self.norm = 0.0
        self._last_step: ModelStep | None = None
        self.good: KeptVersion | None = None
        self.best: KeptVersion | None = None

    def start(self, vector_P: Vector, buffers: Arrays) -> None:
        """Begin from this model, at the current version."""
        self._publish(vector_P, buffers, vector_P)

    def _publish(self, vector_P: Vector, buffers: Arrays, average_P: Vector) -> None:
        self.vector_P, self.buffers, self.average_P = vector_P, buffers, average_P
        self.hash = hashlib.sha256(vector_P.data).digest()
        self.norm = math.sqrt(float(vector_P @ vector_P))
        self.payload.publish(self.version, vector_P, buffers)

    def arrays(self) -> ArrayRecord:
        """The average as Flower's record."""
        restored = self.layout.restore(self.average_P, self.buffers)
        return ArrayRecord({name: Array(np.asarray(array, order="C")) for name, array in restored.items()})

    def step(self, mean: Aggregator, statistics: Statistics, *, version: int) -> bool:
        """Move by the mean of a round's updates and take over their statistics, which makes ``version``.

        Returns False if the result is not finite; then only the model for a roll-back has changed.
        """
        self.good = self._kept()
        self._last_step = None
        with np.errstate(over="ignore", invalid="ignore"):  # an overflow shows in the norm
            mean_P = mean.mean()
            for start, stop in statistics.runs:
                mean_P[start:stop] = 0
            moved_P = mean_P.copy()
            stepped_P = self._stepped(self._optimizer, self.vector_P, mean_P)
            votes = statistics.replace(stepped_P, self.vector_P, self.votes)
            if not math.isfinite(float(stepped_P @ stepped_P)):
                return False
        for start, stop in statistics.runs:
            moved_P[start:stop] = stepped_P[start:stop] - self.vector_P[start:stop]
        self._last_step = ModelStep(self.vector_P, moved_P, mean, statistics.runs)
        self.version, self.votes = version, votes
        self._publish(
            stepped_P, {**self.buffers, **statistics.counted(self.buffers)}, self._averaged(stepped_P, self.good)
        )
        return True

    def remade(self, updates: Iterable[tuple[Update, Part]], rule: str) -> KeptVersion:
        """What the last step would have made of some of its updates alone, with a fresh optimiser."""
        before = self.good or self._kept()
        mean, statistics = aggregator(rule, self.layout.size), Statistics(self.layout)
        for update, part in updates:
            mean.add(update, weight=part.weight, steps=part.steps, length=part.length)
            statistics.add(update, node=part.node, steps=part.asked)
        if not mean.count:
            return before
        with np.errstate(all="ignore"):
            mean_P = mean.mean()
            for start, stop in statistics.runs:
                mean_P[start:stop] = 0
            stepped_P = self._stepped(self._optimizer.fresh(), before.vector_P, mean_P)
            votes = statistics.replace(stepped_P, before.vector_P, before.votes)
            buffers = {**before.buffers, **statistics.counted(before.buffers)}
            return KeptVersion(before.version + 1, stepped_P, self._averaged(stepped_P, before), buffers, votes)

    def _stepped(self, optimizer: ServerOptimizer, before_P: Vector, mean_P: Vector) -> Vector:
        """``before_P`` after the server optimiser's step; of ``mean_P``, what is measured becomes 0.

        What a model measures of its data is no gradient: its mean counts as it is, whatever the optimiser makes of the
        rest. A momentum would throw a variance below 0.
        """
        measured = self.layout.measured_runs
        found = take(before_P, measured) + take(mean_P, measured)
        put(mean_P, measured, np.zeros_like(found))
        stepped_P = optimizer.step(before_P, mean_P)
        put(stepped_P, measured, found)
        return stepped_P

    def take_step(self) -> ModelStep | None:
        """The step that made the latest version, once; None if it was not made by a step."""
        taken, self._last_step = self._last_step, None
        return taken

    def keep_best(self) -> None:
        """Keep the latest version as the best one."""
        self.best = self._kept()

    def roll_back(self, *, to: int, version: int) -> None:
        """Put one of the kept versions back as ``version``, with a fresh optimiser."""
        kept = next((kept for kept in (self.good, self.best) if kept is not None and kept.version == to), None)
        if kept is None:
            raise LookupError(f"version {to} is not kept, so it cannot be put back as version {version}")
        self.version, self.good, self.votes = version, kept, kept.votes
        self._last_step = None
        self._optimizer.reset()
        self._publish(kept.vector_P, kept.buffers, kept.average_P)

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """JSON-able values, and vectors by name."""
        vectors: dict[str, NDArray[Any]] = {"model": self.vector_P, "average": self.average_P}
        vectors.update({f"buffer/{name}": array for name, array in self.buffers.items()})
        vectors.update({f"optimizer/{name}": vector for name, vector in self._optimizer.vectors.items()})
        state: dict[str, Any] = {"version": self.version, "optimizer_steps": self._optimizer.steps}
        state["votes"], found = _written("votes", self.votes)
        vectors |= found
        for name, kept in (("good", self.good), ("best", self.best)):
            if kept is not None:
                state[name] = kept.version
                vectors[name], vectors[f"{name}_average"] = kept.vector_P, kept.average_P
                vectors.update({f"{name}_buffer/{buffer}": array for buffer, array in kept.buffers.items()})
                state[f"{name}_votes"], found = _written(f"{name}_votes", kept.votes)
                vectors |= found
        return state, vectors

    def restore(self, state: Mapping[str, Any], vectors: Mapping[str, NDArray[Any]]) -> None:
        """Inverse of ``state``; publishes the model again: with ``GOOD`` alone, the one before the last step."""
        self.version = state["version"]
        self.good, self.best = (
            KeptVersion(
                state[name],
                vectors[name],
                vectors[f"{name}_average"],
                _under(f"{name}_buffer/", vectors),
                _read(f"{name}_votes", state, vectors),
            )
            if name in vectors
            else None
            for name in ("good", "best")
        )
        if "model" not in vectors:
            return self.roll_back(to=state["good"], version=self.version)
        self._optimizer.steps = state["optimizer_steps"]
        self._optimizer.vectors = {name: vector.copy() for name, vector in _under("optimizer/", vectors).items()}
        self.votes = _read("votes", state, vectors)
        self._publish(vectors["model"], _under("buffer/", vectors), vectors["average"])

    def _kept(self) -> KeptVersion:
        return KeptVersion(self.version, self.vector_P, self.average_P, self.buffers, self.votes)

    def _averaged(self, vector_P: Vector, before: KeptVersion) -> Vector:
        """The average after the step from ``before`` to ``vector_P``."""
        if not self._averaging:
            return vector_P
        share = (DECAY + 1) / (DECAY + before.version + 1)
        average_P = before.average_P * np.float32(1 - share)
        add_scaled(average_P, vector_P, share)
        return average_P


def _written(name: str, votes: Votes) -> tuple[list[list[int]], dict[str, Vector]]:
    """Pairs of node and age, and the values of all votes under one name; no vector if there are no votes."""
    values = {name: np.stack([vote.values_S for vote in votes.values()])} if votes else {}
    return [[node, vote.age] for node, vote in votes.items()], values


def _read(name: str, state: Mapping[str, Any], vectors: Mapping[str, NDArray[Any]]) -> Votes:
    """Inverse of ``_written``."""
    pairs = state[name]
    return {node: Vote(vectors[name][place], age) for place, (node, age) in enumerate(pairs)}


def _under(prefix: str, vectors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): vector for name, vector in vectors.items() if name.startswith(prefix)}
