"""The hook that measures each round's model on the server's test set."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hypergpu_fl.server.report import Report
from hypergpu_fl.task import Task
from hypergpu_fl.task.user_code import user_code
from strategies.layout import Layout
from strategies.round import RoundHook, RoundOutcome

if TYPE_CHECKING:
    import torch


class Evaluation(RoundHook):
    """Tells loss and metrics to the report, and the loss to ``watch``, which may ask for a roll-back.

    ``model`` is overwritten by every round's.
    """

    def __init__(
        self,
        task: Task,
        model: torch.nn.Module,
        layout: Layout,
        report: Report,
        *,
        device: torch.device,
        watch: Callable[[float], bool],
    ) -> None:
        self._task = task
        self._layout = layout
        self._report = report
        self._device = device
        self._watch = watch
        self._model = model

    def closed(self, outcome: RoundOutcome) -> None:
        """See ``RoundHook.closed``."""
        self._task.load(self._model, self._layout.restore(outcome.average_P, outcome.buffers))
        with user_code("evaluating the model"):
            result = self._task.evaluate(self._model, device=self._device)
        self._watch(result.loss)
        self._report.evaluated(result.loss, result.metrics)
