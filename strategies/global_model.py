"""The model under training: its versions, how a mean update moves it, and the way back when it runs away."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from strategies.aggregation import Aggregator
from strategies.errors import Reason, Refused
from strategies.layout import Arrays, Layout, Vector
from strategies.payload import Payload
from strategies.server_optimizer import ServerOptimizer

log = logging.getLogger(__name__)

KEPT_VERSIONS = 200  # an update against an older one is of no use any more; versions may pass in a second each


class GlobalModel:
    """The current version, published through the payload, and the last one known to be good.

    Parameters
    ----------
    layout, payload, optimizer
        See ``NetworkAware``.
    """

    def __init__(self, layout: Layout, payload: Payload, optimizer: ServerOptimizer) -> None:
        self._layout = layout
        self._payload = payload
        self._optimizer = optimizer
        self.version = 0
        self.vector_P: Vector = np.zeros(0, dtype=np.float32)
        self.buffers: Arrays = {}
        self.hash = b""
        self.norm = 0.0
        self._good: tuple[int, Vector] | None = None  # version and model before the last step
        self._disowned = 0, 0  # versions after the first, up to the second, were rolled back

    def publish(self, vector_P: Vector, buffers: Arrays) -> None:
        """Make this the model of the current version."""
        self.vector_P, self.buffers = vector_P, buffers
        self.hash = hashlib.sha256(vector_P.data).digest()
        self.norm = math.sqrt(float(vector_P @ vector_P))
        self._payload.publish(self.version, vector_P, buffers)

    def arrays(self) -> ArrayRecord:
        """The model as Flower's record."""
        restored = self._layout.restore(self.vector_P, self.buffers)
        return ArrayRecord({name: Array(np.asarray(array, order="C")) for name, array in restored.items()})

    def step(self, mean: Aggregator) -> bool:
        """Move by the mean of a round's updates; False, and nothing changed, if that leaves the finite numbers."""
        self._good = self.version, self.vector_P
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is told by the norm
            stepped_P = self._optimizer.step(self.vector_P, mean.mean())
            if not math.isfinite(float(stepped_P @ stepped_P)):
                return False
        self.version += 1
        self.publish(stepped_P, {**self.buffers, **mean.buffers})
        return True

    def roll_back(self) -> int | None:
        """Put the last good model back as a new version, with a fresh optimiser; the version it was, if there is one.

        Updates made against the versions in between are refused from now on.
        """
        if self._good is None:
            return None
        version, vector_P = self._good
        log.error("the loss exploded: version %d is put back, %d is given up", version, self.version)
        self._disowned = version, self.version
        self.version += 1
        self._optimizer.reset()
        self.publish(vector_P, self.buffers)
        return version

    def staleness(self, base: int) -> int:
        """Versions since ``base``. Raises ``Refused`` for a base that is unknown, too old or rolled back."""
        oldest = self.version - KEPT_VERSIONS
        if not oldest <= base <= self.version:
            raise Refused(
                Reason.UNKNOWN_BASE, f"base {base}, the server keeps {oldest}..{self.version}; full model next round"
            )
        if self._disowned[0] < base <= self._disowned[1]:
            raise Refused(Reason.UNKNOWN_BASE, f"base {base} was rolled back; full model next round")
        return self.version - base

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """JSON-able values, and vectors by name."""
        vectors: dict[str, NDArray[Any]] = {"model": self.vector_P}
        vectors.update({f"buffer/{name}": array for name, array in self.buffers.items()})
        vectors.update({f"optimizer/{name}": vector for name, vector in self._optimizer.vectors.items()})
        if self._good is not None:
            vectors["good"] = self._good[1]
        return {
            "version": self.version,
            "good": None if self._good is None else self._good[0],
            "disowned": list(self._disowned),
            "optimizer_steps": self._optimizer.steps,
        }, vectors

    def restore(self, state: Mapping[str, Any], vectors: Mapping[str, NDArray[Any]]) -> None:
        """Inverse of ``state``; the model is published again."""
        self.version, self._disowned = state["version"], (state["disowned"][0], state["disowned"][1])
        self._good = None if state["good"] is None else (state["good"], vectors["good"])
        self._optimizer.steps = state["optimizer_steps"]
        self._optimizer.vectors = {name: vector.copy() for name, vector in _under("optimizer/", vectors).items()}
        self.publish(vectors["model"], _under("buffer/", vectors))


def _under(prefix: str, vectors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): vector for name, vector in vectors.items() if name.startswith(prefix)}
