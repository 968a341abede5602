"""Each round's model, measured on the server's test set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypergpu_fl.task import EvalResult, Task
from hypergpu_fl.task.user_code import user_code
from strategies.model.layout import Arrays, Layout, Vector

if TYPE_CHECKING:
    import torch


class Evaluation:
    """Measures vectors as models of ``task``; each measurement overwrites ``model``."""

    def __init__(self, task: Task, model: torch.nn.Module, layout: Layout, *, device: torch.device) -> None:
        self._task = task
        self._model = model
        self._layout = layout
        self._device = device

    def of(self, model_P: Vector, buffers: Arrays) -> EvalResult:
        """Loss and metrics of this model."""
        self._task.load(self._model, self._layout.restore(model_P, buffers))
        with user_code("evaluating the model"):
            return self._task.evaluate(self._model, device=self._device)
