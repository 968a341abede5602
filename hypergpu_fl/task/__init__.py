"""What is trained: model, data and local training behind one `Task`.

Importing this package imports neither torch nor any data library: `load_task` does, when a task is wanted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypergpu_fl.task.loading import fresh_model, full_identity, hello_identity, layout_of, load_task
from hypergpu_fl.task.protocol import Differentiable, EvalResult, Task, TrainContext, TrainResult, differentiable

if TYPE_CHECKING:
    from hypergpu_fl.task.torch_task import TorchTask

__all__ = [
    "Differentiable",
    "EvalResult",
    "Task",
    "TorchTask",
    "TrainContext",
    "TrainResult",
    "differentiable",
    "fresh_model",
    "full_identity",
    "hello_identity",
    "layout_of",
    "load_task",
]


def __getattr__(name: str) -> Any:
    if name == "TorchTask":
        from hypergpu_fl.task.torch_task import TorchTask

        return TorchTask
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
