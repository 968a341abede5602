"""What is trained: model, data and local training behind one `Task`.

Importing this package imports neither torch nor any data library: `load_task` does, when a task is wanted.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from hypergpu_fl.config import System, Training, runs_root
from hypergpu_fl.errors import TaskError
from hypergpu_fl.task.names import import_object

if TYPE_CHECKING:
    import torch

__all__ = ["EvalResult", "Task", "TrainResult", "load_task"]


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a node reports of its local training.

    ``loss`` is the mean and ``squared_loss`` the mean square of the losses of all samples processed, each taken
    just before the step that used it (the latter is the statistical utility of Oort, OSDI '21). ``samples``
    counts a sample as often as it was used. ``compute_s`` is measured on the node's own monotonic clock.
    """

    samples: int
    steps: int
    loss: float
    squared_loss: float
    compute_s: float


@dataclass(frozen=True, slots=True)
class EvalResult:
    """Mean loss over ``examples``, and per class how many were classified correctly out of how many."""

    examples: int
    loss: float
    class_correct: tuple[int, ...]
    class_examples: tuple[int, ...]

    @property
    def accuracy(self) -> float:
        """Share of the examples classified correctly."""
        return sum(self.class_correct) / self.examples

    @property
    def class_accuracy(self) -> tuple[float | None, ...]:
        """Accuracy of each class; None where the set holds no example of it."""
        return tuple(
            correct / examples if examples else None
            for correct, examples in zip(self.class_correct, self.class_examples, strict=True)
        )


@runtime_checkable
class Task(Protocol):
    """One learning problem, split over nodes. Replace it whole with ``training.task = "pkg.module:name"``.

    ``name`` is called with the `Training` section and returns the task. Server and nodes build it from the same
    configuration and never exchange it.
    """

    def model(self) -> torch.nn.Module:
        """Fresh model on the CPU; the same weights in every process."""
        ...

    def arrays(self, model: torch.nn.Module) -> dict[str, NDArray[Any]]:
        """Copy of the model's state: floats as float32, order stable, a tensor shared by two names once."""
        ...

    def load(self, model: torch.nn.Module, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Overwrite the model's state; the inverse of `arrays`."""
        ...

    def examples(self, partition: int) -> int:
        """Size of a node's share, without loading it."""
        ...

    def train(
        self,
        model: torch.nn.Module,
        partition: int,
        *,
        steps: int,
        batch_size: int,
        seed: int,
        device: torch.device,
    ) -> TrainResult:
        """Train in place on a node's share; the order of samples is a function of ``(seed, partition)``."""
        ...

    def evaluate(self, model: torch.nn.Module, *, device: torch.device, partition: int | None = None) -> EvalResult:
        """Evaluate on a node's share, or on the test set, which no node trains on."""
        ...

    def validate(self, model: torch.nn.Module, *, device: torch.device) -> EvalResult:
        """Evaluate on the small validation set that scores contributions, apart from all shares and the test set."""
        ...


def load_task(
    training: Training, system: System | None = None, *, cache: Path | None = None, simulated: bool = True
) -> Task:
    """Build the task that the configuration names.

    Parameters
    ----------
    cache : Path, optional
        Where prepared data and partitions are kept; ``<runs root>/.cache`` if not given.
    simulated : bool
        Whether all nodes are on this machine; the built-in task then deals out a folder of images too.

    Raises
    ------
    TaskError
        If the data set, model, partitioner or the user's own task cannot be had.
    """
    if training.task:
        factory = import_object(training.task, "training.task")
        task = factory(training)
        if not isinstance(task, Task):
            lacking = ", ".join(
                name
                for name in ("model", "arrays", "load", "examples", "train", "evaluate", "validate")
                if not hasattr(task, name)
            )
            raise TaskError(
                f"training.task = {training.task!r} made a {type(task).__name__} without {lacking}",
                "return an object with all methods of hypergpu_fl.task.Task",
            )
        return task
    from hypergpu_fl.task.image import ImageTask

    folder = cache or runs_root(system or System(), dict(os.environ)) / ".cache"
    return ImageTask(training, folder, simulated=simulated)
