"""The hook that measures each round's model on the server's test set."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hypergpu_fl.server.report import Report
from hypergpu_fl.task import Task
from strategies.layout import Layout
from strategies.round import RoundHook, RoundOutcome

if TYPE_CHECKING:
    import torch


class Evaluation(RoundHook):
    """Tells accuracy and loss to the report, and the loss to ``watch``, which may ask for a roll-back."""

    def __init__(
        self, task: Task, layout: Layout, report: Report, *, device: torch.device, watch: Callable[[float], bool]
    ) -> None:
        self._task = task
        self._layout = layout
        self._report = report
        self._device = device
        self._watch = watch
        self._model = task.model()

    def closed(self, outcome: RoundOutcome) -> None:
        """See ``RoundHook.closed``."""
        self._task.load(self._model, self._layout.restore(outcome.average_P, outcome.buffers))
        result = self._task.evaluate(self._model, device=self._device)
        self._watch(result.loss)
        self._report.evaluated(accuracy=result.accuracy, loss=result.loss)
