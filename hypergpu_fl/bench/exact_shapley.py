"""The exact Shapley value of a round's updates, to judge cheaper values by: every coalition is measured."""

from __future__ import annotations

from collections import Counter
from math import comb
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hypergpu_fl.server.accounting import Admitted
from hypergpu_fl.server.pipeline import Pipeline
from hypergpu_fl.task import Task
from strategies.arrivals.flight import Flight
from strategies.model.aggregation import Update
from strategies.model.layout import Layout, Vector
from strategies.outcome import Attendant, RoundOutcome, Witness
from strategies.wire import Hello, Reply


def shapley(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values of N players from the losses of all ``2**N`` coalitions; bit ``i`` of an index: player i is in it."""
    count = losses.size.bit_length() - 1
    masks = np.arange(losses.size)
    sizes = np.array([mask.bit_count() for mask in range(losses.size)])
    values = np.zeros(count)
    for player in range(count):
        without = masks[(masks >> player) & 1 == 0]
        weights = 1.0 / (count * np.array([comb(count - 1, size) for size in sizes[without]], dtype=np.float64))
        values[player] = float(weights @ (losses[without] - losses[without | 1 << player]))
    return values


class ExactValues(Attendant[Admitted]):
    """Attends as the pipeline does, and also measures what each node's updates were worth, summed over the run.

    A coalition's model is the round's base plus its members' updates with the coefficients of the whole round.
    """

    def __init__(self, own: Pipeline, task: Task, model: torch.nn.Module, layout: Layout) -> None:
        self.values: Counter[str] = Counter()
        self._own = own
        self._task = task
        self._model = model
        self._layout = layout
        self._open: list[tuple[str, Update]] = []

    def vet(self, node_id: int, hello: Hello) -> None:
        """See ``Attendant.vet``."""
        self._own.vet(node_id, hello)

    def joined(self, row: int, node_id: int, hello: Hello) -> None:
        """See ``Attendant.joined``."""
        self._own.joined(row, node_id, hello)

    def admit(self, flight: Flight, reply: Reply) -> Admitted:
        """See ``Attendant.admit``."""
        return self._own.admit(flight, reply)

    def measure(self, update: Update, model_P: Vector) -> float | None:
        """See ``Attendant.measure``."""
        return self._own.measure(update, model_P)

    def added(self, admitted: Any, update: Update, model_P: Vector, held_out_loss: float | None) -> None:
        """See ``Attendant.added``."""
        self._open.append((admitted.node, update))
        self._own.added(admitted, update, model_P, held_out_loss)

    @property
    def witness(self) -> Witness:
        """See ``Attendant.witness``."""
        return self._own

    def receipt(self, node_id: int) -> str:
        """See ``Attendant.receipt``."""
        return self._own.receipt(node_id)

    def closed(self, outcome: RoundOutcome) -> None:
        """Measure, then let the pipeline close the round."""
        updates, self._open = self._open, []
        if outcome.step is not None:
            parts_NP = np.zeros((len(updates), self._layout.size), dtype=np.float32)
            for index, (_, update) in enumerate(updates):
                update.add_to(parts_NP[index], outcome.step.mean.entered(index).coefficient)
            losses = np.empty(2 ** len(updates))
            model_P = outcome.step.base_P.copy()
            inside = 0
            for step in range(losses.size):  # Gray code: successive coalitions differ in one member
                mask = step ^ step >> 1
                if changed := mask ^ inside:
                    player = changed.bit_length() - 1
                    model_P += parts_NP[player] if mask & changed else -parts_NP[player]
                inside = mask
                self._task.load(self._model, self._layout.restore(model_P, outcome.buffers))
                losses[mask] = self._task.validate(self._model, device=torch.device("cpu")).loss
            for (node, _), value in zip(updates, shapley(losses).tolist(), strict=True):
                self.values[node] += value
        self._own.closed(outcome)
