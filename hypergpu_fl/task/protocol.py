"""The interface of a learning problem, and the values that it receives and returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Option = bool | int | float | str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainContext:
    """One order to train.

    Attributes
    ----------
    steps, batch_size : int
        How many optimiser steps, and of how many examples each.
    seed : int
        Of this order; another one every round. The order of examples is a function of ``(seed, partition)``.
    device : torch.device
        Where to compute.
    folder : Path
        On the node's own disk; it stays between the rounds of a run, also if that is resumed, and no other node or run
        uses it.
    round : int
        From 1.
    progress : float
        Share of the run's rounds that are over, from 0 up to 1: what a learning-rate schedule needs.
    node_config : Mapping
        The node's own settings: ``--node-config`` of its SuperNode.
    """

    steps: int
    batch_size: int
    seed: int
    device: torch.device
    folder: Path
    round: int = 1
    progress: float = 0.0
    node_config: Mapping[str, Option] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a node reports of its local training.

    ``count`` is how much was processed, in the task's unit, an example counted as often as it was used. ``loss`` is
    the mean and ``squared_loss`` the mean square of the losses, each taken just before the step that used it (the
    latter is the statistical utility of Oort, OSDI '21). ``compute_s`` is measured on the node's own monotonic clock.
    ``metrics`` are whatever else the task measures, by name.
    """

    count: int
    steps: int
    loss: float
    squared_loss: float
    compute_s: float
    metrics: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _make_plain(self, whole=("count", "steps"), real=("loss", "squared_loss", "compute_s"))


@dataclass(frozen=True, slots=True)
class EvalResult:
    """Mean loss over ``count`` of the task's units, and its other metrics by name."""

    count: int
    loss: float
    metrics: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _make_plain(self, whole=("count",), real=("loss",))

    @property
    def accuracy(self) -> float | None:
        """The metric of that name; None where a task has none."""
        return self.metrics.get("accuracy")

    @property
    def named(self) -> dict[str, float]:
        """Every figure by name, the loss included: what ``training.target`` may name."""
        return {**self.metrics, "loss": self.loss}


def _make_plain(result: TrainResult | EvalResult, *, whole: Sequence[str], real: Sequence[str]) -> None:
    """Turn the numbers of a result into Python's own: a task may well count in numpy's, or in tensors of one value.

    Neither the event log nor the books' JSON takes any other.
    """
    plain = {name: int(getattr(result, name)) for name in whole} | {name: float(getattr(result, name)) for name in real}
    metrics = {str(name): float(value) for name, value in result.metrics.items()}
    for name, value in (*plain.items(), ("metrics", metrics)):
        object.__setattr__(result, name, value)  # it is frozen for everybody else


@runtime_checkable
class Task(Protocol):
    """One learning problem, split over nodes. Replace it whole with ``training.task = "pkg.module:name"``.

    ``name`` is called with the `hypergpu_fl.config.Training` section and returns the task. Server and nodes build it
    from the same configuration and never exchange it. For the usual case in PyTorch there is
    `hypergpu_fl.task.TorchTask`, which offers all of this for a model, data and a loss.
    """

    @property
    def unit(self) -> str:
        """What is counted, in the plural: ``"examples"``, ``"tokens"``."""
        ...

    def identity(self) -> Mapping[str, str]:
        """What must be the same at server and nodes, by name: class names, tokenizer, normalisation, version.

        A node that differs is refused when it says hello. Layout and frozen weights of the model are compared anyway.
        """
        ...

    def model(self) -> torch.nn.Module:
        """Fresh model on the CPU; torch's, numpy's and Python's generators have been seeded before."""
        ...

    def arrays(self, model: torch.nn.Module) -> dict[str, NDArray[Any]]:
        """Copy of what travels: floats as float32, order stable, a tensor shared by two names once."""
        ...

    def load(self, model: torch.nn.Module, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Overwrite what travels; the inverse of `arrays`."""
        ...

    def examples(self, partition: int) -> int:
        """Size of a node's share in examples, which batches are made of; quick, for it is asked for in every round."""
        ...

    def train(self, model: torch.nn.Module, partition: int, context: TrainContext) -> TrainResult:
        """Train in place on a node's share; the order of examples is a function of ``(context.seed, partition)``."""
        ...

    def evaluate(self, model: torch.nn.Module, *, device: torch.device, partition: int | None = None) -> EvalResult:
        """Evaluate on a node's share, or on the test set, which no node trains on."""
        ...

    def validate(self, model: torch.nn.Module, *, device: torch.device) -> EvalResult:
        """Evaluate on the small validation set that scores contributions, apart from all shares and the test set."""
        ...


@runtime_checkable
class Differentiable(Protocol):
    """A task that has gradients of its validation loss, by which contributions are priced best."""

    def gradient(self, model: torch.nn.Module, *, device: torch.device) -> Mapping[str, NDArray[Any]]:
        """Gradient of the loss that `Task.validate` measures, by the names of `Task.arrays`; what is missing is 0."""
        ...


def differentiable(task: Task) -> Differentiable | None:
    """``task`` if it has gradients of the same loss that it validates by; else None.

    A class that overrides ``validate`` and inherits ``gradient`` would be priced by another loss than it measures.
    """
    if not isinstance(task, Differentiable):
        return None
    written = [vars(kind) for kind in type(task).__mro__]
    of_gradient, of_validate = (
        next((place for place, names in enumerate(written) if name in names), len(written))
        for name in ("gradient", "validate")
    )
    return task if of_gradient <= of_validate else None
