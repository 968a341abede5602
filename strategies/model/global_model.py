"""The model under training: its versions, their average, the step by a mean update, and the roll-back.

Nodes train from the latest version. An average of the versions is evaluated and kept, because each step is the mean of
a few nodes whose data differ, and pulls the model a little to their side:

``a_t = (1 - r) a_(t-1) + r w_t`` with ``r = (8 + 1) / (8 + t)``, the polynomial-decay average of Shamir and Zhang
(arXiv 1212.1824, section 4). Whenever training ends, it averages roughly the last ninth of all versions.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from strategies.model.aggregation import Aggregator
from strategies.model.axpy import add_scaled
from strategies.model.layout import Arrays, Layout, Run, Vector, put, take
from strategies.model.payload import Payload
from strategies.model.server_optimizer import ServerOptimizer
from strategies.model.statistics import Statistics

DECAY = 8
GOOD: Final = ("good", "good_average", "good_buffer")  # the groups to which a roll-back returns


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


class GlobalModel:
    """The current version, published through the payload, and the last one known to be good.

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
        self.hash = b""
        self.norm = 0.0
        self._last_step: ModelStep | None = None
        self._good: tuple[Vector, Vector, Arrays] | None = None  # model, average and buffers before the last step

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

        What a model measures of its data is no gradient: the mean of it counts as it is, whatever the server optimiser
        makes of the rest. A momentum would throw a variance below 0.

        Returns False if the result is not finite; then only the model for a roll-back has changed.
        """
        self._good = self.vector_P, self.average_P, self.buffers
        self._last_step = None
        with np.errstate(over="ignore", invalid="ignore"):  # an overflow shows in the norm
            mean_P = mean.mean()
            for start, stop in statistics.runs:
                mean_P[start:stop] = 0
            moved_P, measured = mean_P.copy(), self.layout.measured_runs
            put(mean_P, measured, np.zeros_like(take(mean_P, measured)))
            stepped_P = self._optimizer.step(self.vector_P, mean_P)
            put(stepped_P, measured, take(self.vector_P, measured) + take(moved_P, measured))
            statistics.replace(stepped_P, self.vector_P)
            if not math.isfinite(float(stepped_P @ stepped_P)):
                return False
        for start, stop in statistics.runs:
            moved_P[start:stop] = stepped_P[start:stop] - self.vector_P[start:stop]
        self._last_step = ModelStep(self.vector_P, moved_P, mean, statistics.runs)
        self.version = version
        self._publish(stepped_P, {**self.buffers, **statistics.counted}, self._averaged(stepped_P))
        return True

    def take_step(self) -> ModelStep | None:
        """The step that made the latest version, once; None if it was not made by a step."""
        taken, self._last_step = self._last_step, None
        return taken

    def roll_back(self, *, version: int) -> None:
        """Put the model before the last step back as ``version``, with a fresh optimiser."""
        if self._good is None:
            raise LookupError(f"there is no earlier model to put back as version {version}")
        self.version = version
        self._last_step = None
        self._optimizer.reset()
        good_P, average_P, buffers = self._good
        self._publish(good_P, buffers, average_P)

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """JSON-able values, and vectors by name."""
        vectors: dict[str, NDArray[Any]] = {"model": self.vector_P, "average": self.average_P}
        vectors.update({f"buffer/{name}": array for name, array in self.buffers.items()})
        vectors.update({f"optimizer/{name}": vector for name, vector in self._optimizer.vectors.items()})
        if self._good is not None:
            vectors["good"], vectors["good_average"], good_buffers = self._good
            vectors.update({f"good_buffer/{name}": array for name, array in good_buffers.items()})
        return {"version": self.version, "optimizer_steps": self._optimizer.steps}, vectors

    def restore(self, state: Mapping[str, Any], vectors: Mapping[str, NDArray[Any]]) -> None:
        """Inverse of ``state``; publishes the model again: with ``GOOD`` alone, the one before the last step."""
        self.version = state["version"]
        if "good" in vectors:
            self._good = vectors["good"], vectors["good_average"], _under("good_buffer/", vectors)
        if "model" not in vectors:
            return self.roll_back(version=self.version)
        self._optimizer.steps = state["optimizer_steps"]
        self._optimizer.vectors = {name: vector.copy() for name, vector in _under("optimizer/", vectors).items()}
        self._publish(vectors["model"], _under("buffer/", vectors), vectors["average"])

    def _averaged(self, vector_P: Vector) -> Vector:
        if not self._averaging:
            return vector_P
        share = (DECAY + 1) / (DECAY + self.version)
        average_P = self.average_P * np.float32(1 - share)
        add_scaled(average_P, vector_P, share)
        return average_P


def _under(prefix: str, vectors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): vector for name, vector in vectors.items() if name.startswith(prefix)}
