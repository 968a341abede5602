"""Server-side optimisers on the flat model, with the mean update as pseudo-gradient (Reddi et al., arXiv 2003.00295).

The formulas, defaults included, are those of Flower's strategies of the same names, which serve as oracle in tests.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from strategies.model.layout import Vector

Name = Literal["fedavg", "fedavgm", "fedadam", "fedyogi"]


@dataclass
class ServerOptimizer:
    """One optimiser with its state vectors, which go into the checkpoint.

    ``fedavg``: ``w += lr * d``; ``fedavgm``: ``v = beta v + d; w += lr * v``; ``fedadam`` and ``fedyogi``:
    ``m = b1 m + (1 - b1) d``, second moment ``v`` as the name says, ``w += lr * m / (sqrt(v) + tau)``, for fedadam
    with ``lr * sqrt(1 - b2^(t+1)) / (1 - b1^(t+1))`` in step t = 1, 2, ... as Flower has it.
    """

    name: Name = "fedavg"
    learning_rate: float = 1.0
    momentum: float = 0.9
    beta_2: float = 0.99
    tau: float = 1e-3
    steps: int = 0
    vectors: dict[str, Vector] = field(default_factory=dict)

    def step(self, model_P: Vector, mean_P: Vector) -> Vector:
        """The next model; ``model_P`` is left untouched, ``mean_P`` is consumed."""
        self.steps += 1
        if self.name == "fedavg":
            mean_P *= np.float32(self.learning_rate)
            mean_P += model_P
            return mean_P
        if self.name == "fedavgm":
            velocity_P = self._vector("velocity", model_P.size)
            velocity_P *= np.float32(self.momentum)
            velocity_P += mean_P
            return np.asarray(model_P + np.float32(self.learning_rate) * velocity_P, dtype=np.float32)
        first_P, second_P = self._vector("first", model_P.size), self._vector("second", model_P.size)
        first_P *= np.float32(self.momentum)
        first_P += np.float32(1 - self.momentum) * mean_P
        square_P = mean_P * mean_P
        rate = self.learning_rate
        if self.name == "fedadam":
            second_P *= np.float32(self.beta_2)
            second_P += np.float32(1 - self.beta_2) * square_P
            exponent = self.steps + 1.0
            rate *= float(np.sqrt(1 - self.beta_2**exponent) / (1 - self.momentum**exponent))
        else:
            second_P -= np.float32(1 - self.beta_2) * square_P * np.sign(second_P - square_P)
        step_P = np.float32(rate) * first_P / (np.sqrt(second_P) + np.float32(self.tau))
        return np.asarray(model_P + step_P, dtype=np.float32)

    def fresh(self) -> ServerOptimizer:
        """One like this that has made no step."""
        return replace(self, steps=0, vectors={})

    def reset(self) -> None:
        """Forget momentum and moments, as after a roll-back."""
        self.steps = 0
        self.vectors.clear()

    def _vector(self, name: str, size: int) -> Vector:
        if name not in self.vectors:
            self.vectors[name] = np.zeros(size, dtype=np.float32)
        return self.vectors[name]
