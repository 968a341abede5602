"""All that a run asks of a task, tried in seconds and without Flower.

`try_first` is what every start of a run tries; `check_task` also asks what would only spoil a run later.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from hypergpu_fl.config import Training
from hypergpu_fl.config.target import Target
from hypergpu_fl.errors import TaskError
from hypergpu_fl.task.loading import CONSTANTS, FROZEN, fresh_model, full_identity, hello_identity, load_task
from hypergpu_fl.task.metric_names import named_metrics
from hypergpu_fl.task.protocol import EvalResult, Task
from hypergpu_fl.task.trial import NOT_FINITE, Trial, examples_of, expect, try_task
from hypergpu_fl.task.user_code import user_code
from strategies.errors import Refused
from strategies.prose import amount
from strategies.wire import domains

if TYPE_CHECKING:
    import torch

STEPS: Final = 2
FEWEST_EXAMPLES: Final = 2  # of a share that is tried: BatchNorm cannot train on one
OTHERS_S: Final = 10.0  # for a step on each of the other shares
TOLERANCE: Final = 1e-2  # of the change's length, between two trainings alike: a GPU adds up in any order

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Checked:
    """A task that does what a run asks of it, and what it said.

    ``trial``: two steps on the share of ``partition``, which holds ``examples``.
    """

    task: Task
    model: torch.nn.Module
    trial: Trial
    partition: int
    examples: int
    held_out: EvalResult
    validation: EvalResult
    identity: Mapping[str, str]


def check_task(
    training: Training, task: Task | None = None, *, device: str = "cpu", partition: int | None = None
) -> Checked:
    """Try all that a run asks of a task on one share.

    Parameters
    ----------
    training : Training
        The section of the configuration.
    task : Task, optional
        Already made; else the one that ``training`` names.
    device : str
        As ``system.device``.
    partition : int, optional
        The share; else the first that holds a batch.

    Raises
    ------
    TaskError
        If the task cannot be had, or fails, with the place in the user's code; if steps do not change the weights, or
        not alike when they are made again; if arrays do not come back as they went; if a figure is not finite, has a
        name that cannot travel, or is missing though ``training.target`` names it.
    """
    from hypergpu_fl.task.device import resolve_device

    task = task or load_task(training)
    where = resolve_device(device)
    model = fresh_model(task, training.seed)
    identity = full_identity(task, model)
    _check_can_be_sent(hello_identity(task, model, training.model_architecture, full=identity))
    _check_drawn_again(task, model, identity, training.seed)
    if partition is None:
        partition = _first_share(task, training.num_nodes)
    examples = examples_of(task, partition)

    def steps() -> Trial:
        return try_task(task, model, partition, device=where, batch_size=training.batch_size, steps=STEPS)

    trial = steps()
    _check_change(model, trial)
    _check_round_trip(task, model, trial)
    _check_repeated(trial, steps())
    named_metrics(trial.trained.metrics)
    held_out = check_held_out(task, model, training.goal, device=where)
    validation = check_validation(task, model, device=where)
    return Checked(task, model, trial, partition, examples, held_out, validation, identity)


def try_first(training: Training, task: Task, *, device: str) -> dict[str, float]:
    """What every start of a run tries: one step on the first share that holds a batch, and both evaluations.

    Returns
    -------
    dict
        ``examples`` of the share, and the fresh model's figures by name.

    Raises
    ------
    TaskError
        As `check_task`.
    """
    from hypergpu_fl.task.device import resolve_device

    where = resolve_device(device)
    model = fresh_model(task, training.seed)
    identity = full_identity(task, model)
    _check_can_be_sent(hello_identity(task, model, training.model_architecture, full=identity))
    _check_drawn_again(task, model, identity, training.seed)
    partition = _first_share(task, training.num_nodes)
    tried = try_task(task, model, partition, device=where, batch_size=training.batch_size)
    _check_round_trip(task, model, tried)
    named_metrics(tried.trained.metrics)
    check_validation(task, model, device=where)
    found = check_held_out(task, model, training.goal, device=where)
    return {"examples": examples_of(task, partition), **found.named}


@dataclass(frozen=True, slots=True)
class OtherShares:
    """Of the shares but one: how many were ``tried``, which were too ``small``, and how many there was no time for."""

    tried: int
    small: tuple[int, ...]
    left: int


def try_others(
    training: Training, checked: Checked, *, device: str = "cpu", now_s: Callable[[], float] = time.monotonic
) -> OtherShares:
    """Make one step on each of the other shares, as many as ``OTHERS_S`` allow.

    Raises
    ------
    TaskError
        If one cannot be read or trained on.
    """
    from hypergpu_fl.task.device import resolve_device

    where, until_s = resolve_device(device), now_s() + OTHERS_S
    tried, small = 0, []
    shares = [node for node in range(training.num_nodes) if node != checked.partition]
    for share in shares:
        if now_s() >= until_s:
            break
        if examples_of(checked.task, share) < FEWEST_EXAMPLES:
            small.append(share)
            continue
        try_task(checked.task, checked.model, share, device=where, batch_size=training.batch_size)
        tried += 1
    return OtherShares(tried, tuple(small), len(shares) - tried - len(small))


def _first_share(task: Task, num_nodes: int) -> int:
    """The first share that can be trained on, or the first of all."""
    return next((node for node in range(num_nodes) if examples_of(task, node) >= FEWEST_EXAMPLES), 0)


def check_validation(task: Task, model: torch.nn.Module, *, device: torch.device) -> EvalResult:
    """The fresh model's figures on the data by which contributions are priced, before anything depends on them.

    Raises
    ------
    TaskError
        If they cannot be had, or the loss is not finite.
    """
    with user_code("evaluating the fresh model"):
        found = task.validate(model, device=device)
        expect(found, EvalResult, "validate()")
    named_metrics(found.metrics, "validate()")
    _check_finite(found, "the validation data")
    return found


def check_held_out(task: Task, model: torch.nn.Module, goal: Target | None, *, device: torch.device) -> EvalResult:
    """The fresh model's figures on the data by which every round's model is judged.

    Raises
    ------
    TaskError
        If there are no such data, the loss on them is not finite, or they lack the figure that the target names.
    """
    with user_code("evaluating the fresh model on the held-out data"):
        found = task.evaluate(model, device=device)
        expect(found, EvalResult, "evaluate()")
    if goal is not None and goal.metric not in found.named:
        raise TaskError(
            f"training.target = {str(goal)!r}, but the task measures {', '.join(sorted(found.named))}",
            "name one of these, or return it from metrics() or summary()",
        )
    named_metrics(found.metrics, "evaluate()")
    _check_finite(found, "the held-out data")
    return found


def _check_can_be_sent(identity: Mapping[str, str]) -> None:
    """Refuse an identity that the server would refuse of every node."""
    try:
        domains.identity(identity)
    except Refused as refusal:
        raise TaskError(
            f"identity() is too long for a hello: {refusal.detail}",
            "return a version, or a hash of what must be the same, instead of the thing itself",
        ) from refusal


def _check_finite(found: EvalResult, what: str) -> None:
    if not found.count:
        raise TaskError(f"{what} hold nothing to evaluate on", "let data(None) return at least two examples")
    if not math.isfinite(found.loss):
        raise TaskError(
            f"the loss of the fresh model on {what} is {found.loss}",
            NOT_FINITE,
        )


def _check_drawn_again(task: Task, model: torch.nn.Module, identity: Mapping[str, str], seed: int) -> None:
    cause, again = "model() makes other weights the second time", fresh_model(task, seed)
    _same(task.arrays(model), task.arrays(again), cause)
    other = full_identity(task, again)
    for name in (FROZEN, CONSTANTS):
        if identity.get(name) != other.get(name):
            raise TaskError(f"model() makes other {name} the second time", _REMEDY[cause])


def _check_change(model: torch.nn.Module, trial: Trial) -> None:
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    weights = trainable & trial.before.keys() or trial.before.keys()
    if all(np.array_equal(trial.before[name], trial.after[name]) for name in weights):
        raise TaskError(
            f"{amount(STEPS, 'step')} change no weight of the model",
            "raise training.learning_rate, and let the loss depend on what the model returns",
        )


def _check_repeated(one: Trial, other: Trial) -> None:
    if one.after.keys() != other.after.keys():
        raise TaskError("arrays() names other arrays the second time", "return the same names in the same order")
    apart = _length({name: _wide(one.after[name]) - _wide(other.after[name]) for name in one.after})
    change = _length({name: _wide(one.after[name]) - _wide(one.before[name]) for name in one.after})
    if apart > TOLERANCE * change:
        raise TaskError(
            "the same steps with the same seed end in other weights: "
            f"they differ by {apart / max(change, 1e-30):.2g} of their change",
            "draw from torch's, numpy's or Python's own generators, which are seeded, and keep no state between calls "
            "but in context.folder",
        )


def _check_round_trip(task: Task, model: torch.nn.Module, trial: Trial) -> None:
    for arrays in (trial.after, trial.before):
        with user_code("loading the model's arrays"):
            task.load(model, arrays)
            back = task.arrays(model)
        _same(arrays, back, "load() does not restore what arrays() gave")


def _same(one: Arrays, other: Arrays, cause: str) -> None:
    if list(one) != list(other):
        odd = sorted(one.keys() ^ other.keys())
        raise TaskError(f"{cause}: {odd[0]!r} is on one side only" if odd else f"{cause}: names in another order", "")
    for name, array in one.items():
        if not np.array_equal(array, other[name], equal_nan=array.dtype.kind == "f"):
            raise TaskError(f"{cause}: {name!r} differs", _REMEDY[cause])


_REMEDY: Final = {
    "model() makes other weights the second time": (
        "draw them from torch's, numpy's or Python's own generators, which are seeded before model() is called"
    ),
    "load() does not restore what arrays() gave": "let load() write every array into the model as it is",
}


def _wide(array: NDArray[Any]) -> NDArray[np.float64]:
    return array.astype(np.float64)


def _length(arrays: Arrays) -> float:
    return math.sqrt(sum(float(np.square(array).sum()) for array in arrays.values()))
