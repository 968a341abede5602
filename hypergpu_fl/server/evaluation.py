"""Each round's model, measured on the server's test set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypergpu_fl.task import EvalResult, Task
from strategies.layout import Arrays, Layout, Vector

if TYPE_CHECKING:
    import torch


class Evaluation:
    """Measures vectors as ``task``'s model."""

    def __init__(self, task: Task, layout: Layout, *, device: torch.device) -> None:
        self._task = task
        self._layout = layout
        self._device = device
        self._model = task.model()

    def of(self, model_P: Vector, buffers: Arrays) -> EvalResult:
        """Accuracy and loss of this model."""
        self._task.load(self._model, self._layout.restore(model_P, buffers))
        return self._task.evaluate(self._model, device=self._device)
