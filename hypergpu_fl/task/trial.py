"""A few steps on one share before anything depends on it."""

from __future__ import annotations

import math
import operator
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from hypergpu_fl.errors import TaskError
from hypergpu_fl.task.protocol import Task, TrainContext, TrainResult
from hypergpu_fl.task.user_code import user_code

if TYPE_CHECKING:
    import torch

NOT_FINITE = (
    "look for NaN or infinity in the data, and for log, sqrt or division by 0 in the loss; scale inputs to about -1..1"
)
HALFWAY = 0.5  # of the run: no warm-up holds the learning rate at 0 there


@dataclass(frozen=True, slots=True)
class Trial:
    """What the steps reported, and the model's arrays before and after them."""

    trained: TrainResult
    before: Mapping[str, NDArray[Any]]
    after: Mapping[str, NDArray[Any]]


def examples_of(task: Task, share: int) -> int:
    """Size of a node's share, in Python's own number.

    Raises
    ------
    TaskError
        If the task cannot tell, or by no whole number.
    """
    with user_code(f"asking for the size of share {share}"):
        return operator.index(task.examples(share))


def expect(found: object, kind: type, method: str) -> None:
    """Refuse what a method of the task returned if it is of another kind."""
    if not isinstance(found, kind):
        raise TaskError(
            f"{method} returned an object of type {type(found).__name__}", f"return a hypergpu_fl.task.{kind.__name__}"
        )


def try_task(
    task: Task, model: torch.nn.Module, partition: int, *, device: torch.device, batch_size: int, steps: int = 1
) -> Trial:
    """Train ``steps`` steps on a node's share, and give the model back as it was.

    Raises
    ------
    TaskError
        If the task fails, with the place in the user's code, or its loss or the changed model is not finite.
    """
    import numpy as np

    before = task.arrays(model)
    with (
        tempfile.TemporaryDirectory(prefix="hypergpu-trial-") as folder,
        user_code(f"trying one batch of share {partition}"),
    ):
        context = TrainContext(
            steps=steps, batch_size=batch_size, seed=0, device=device, folder=Path(folder), progress=HALFWAY
        )
        result = task.train(model, partition, context)
        expect(result, TrainResult, "train()")
        after = task.arrays(model)
        task.load(model, before)
    if not math.isfinite(result.loss):
        raise TaskError(
            f"the loss on one batch of partition {partition} is {result.loss}",
            NOT_FINITE,
        )
    for name, array in after.items():
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            raise TaskError(f"one step makes {name!r} not finite", "lower training.learning_rate")
    return Trial(result, before, after)
