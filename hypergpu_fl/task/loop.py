"""Local training for any model and loss, with so little overhead that it suits even very small models.

B = examples of a batch. Losses stay on the device until the end of a group of steps; nothing else is awaited.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from loguru import logger
from numpy.typing import NDArray
from torch import Tensor, nn

from hypergpu_fl.config.faults import shown
from hypergpu_fl.errors import TaskError, first_line
from hypergpu_fl.task.batch_form import examples_in
from hypergpu_fl.task.batches import Batch, Rows
from hypergpu_fl.task.generators import seeded
from hypergpu_fl.task.protocol import TrainResult
from strategies.prose import amount

# For a small model, the casts cost more than the faster products save. The exact break-even was not measured.
BFLOAT16_PARAMETERS = 1_000_000

Loss = Callable[[nn.Module, Any], Tensor]
Count = Callable[[Any], int] | None  # None: a batch's examples are its units
Figures = Callable[[nn.Module, Any], dict[str, Tensor]]
Precision = Callable[[], contextlib.AbstractContextManager[object]]


class SampleOrder:
    """Endless order of samples: one random permutation of all N after another.

    Batches may span two permutations, so that after any number of steps every sample was used equally often, give or
    take one.
    """

    def __init__(self, samples: int, rng: np.random.Generator) -> None:
        self._samples = samples
        self._rng = rng
        self._left = np.empty(0, dtype=np.int64)

    def take(self, count: int) -> NDArray[np.int64]:
        """Return the next ``count`` samples."""
        pieces = []
        while count:
            if not len(self._left):
                self._left = self._rng.permutation(self._samples)
            pieces.append(self._left[:count])
            self._left = self._left[count:]
            count -= len(pieces[-1])
        return np.concatenate(pieces)


@dataclass(slots=True)
class MicroBatch:
    """Examples that go through the model at once; 0: the whole batch. Halved when the device's memory runs out."""

    size: int = 0

    def halve(self, batch: int, error: Exception) -> None:
        """Continue with half of what did not fit, and log it."""
        tried = min(self.size or batch, batch)
        if tried < 2:
            raise TaskError(
                f"the device's memory does not hold one example: {first_line(error)[:200]}",
                "use a smaller model or shorter examples, or a device with more memory",
            ) from error
        self.size = tried // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        logger.warning(
            "{} examples at once do not fit into the device's memory: from now on {}, whose gradients are added up",
            tried,
            self.size,
        )


@dataclass(slots=True)
class Sums:
    """Running totals of a training call. ``units`` are the task's."""

    units: int = 0
    loss: float = 0.0
    squared_loss: float = 0.0
    _pending: list[tuple[Tensor, int]] = field(default_factory=list)

    def add(self, losses: Tensor, units: int) -> None:
        """Remember losses, which may still be computing."""
        self._pending.append((losses.detach().reshape(-1), units))

    def settle(self) -> None:
        """Wait for the pending losses, and add them up."""
        if not self._pending:
            return
        values = torch.cat([losses for losses, _ in self._pending]).cpu().double()
        sizes = torch.tensor([len(losses) for losses, _ in self._pending])
        units = torch.tensor([units for _, units in self._pending])
        weights = torch.repeat_interleave(units.double() / sizes, sizes)
        self.loss += float((weights * values).sum())
        self.squared_loss += float((weights * values.square()).sum())
        self.units += int(units.sum())
        self._pending.clear()


def fit(
    model: nn.Module,
    rows: Rows,
    start: Callable[[list[nn.Parameter]], Callable[[], object]],
    *,
    loss: Loss,
    count: Count,
    steps: int,
    batch_size: int,
    seed: tuple[int, ...],
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
    micro: MicroBatch | None = None,
    clip_norm: float | None = None,
    mixed: bool = True,
) -> TrainResult:
    """Train in place for ``steps`` batches of ``min(batch_size, N)`` examples.

    The result is a function of the arguments alone on a CPU with a fixed number of threads. CUDA computes
    the forward pass of models of over a million parameters in bfloat16 if ``mixed``; weights and optimiser stay
    float32.

    Parameters
    ----------
    start : callable
        Makes the optimiser of the parameters given, as the function that makes one step.
    loss, count, micro, clip_norm
        See `train_steps`.

    Raises
    ------
    TaskError
        If the share is empty, or no step or example is asked for.
    """
    if not len(rows):
        raise TaskError("the share holds no example", "give every node at least one, or start fewer nodes")
    if min(steps, batch_size) < 1:
        raise TaskError(
            f"cannot train {amount(steps, 'step')} of {amount(batch_size, 'sample')} on a share of {len(rows)}",
            "let both be positive",
        )
    began_s = clock()
    order = SampleOrder(len(rows), np.random.default_rng(seed))
    model_seed = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0])
    with seeded(model_seed, device):
        sums = train_steps(
            model,
            rows.groups(order, steps, min(batch_size, len(rows))),
            start([parameter for parameter in model.parameters() if parameter.requires_grad]),
            loss=loss,
            count=count,
            precision=precision_of(model, device) if mixed else contextlib.nullcontext,
            micro=micro,
            clip_norm=clip_norm,
        )
    if not sums.units:
        raise TaskError(f"count() found nothing in {amount(steps, 'step')}", "let it return the units of a batch")
    return TrainResult(sums.units, steps, sums.loss / sums.units, sums.squared_loss / sums.units, clock() - began_s)


def train_steps(
    model: nn.Module,
    groups: Iterable[Iterable[Batch]],
    step: Callable[[], object],
    *,
    loss: Loss,
    count: Count,
    precision: Precision = contextlib.nullcontext,
    micro: MicroBatch | None = None,
    clip_norm: float | None = None,
) -> Sums:
    """Make one step for every batch of every group.

    Parameters
    ----------
    groups : iterable of iterables
        Batches; the losses of a group are waited for at its end.
    step : callable
        Moves the trainable parameters along their gradients.
    loss : callable
        Mean loss of a batch as a scalar, or one loss a sample, whose mean is minimised.
    count : callable, optional
        Units of a batch; by default its examples.
    micro : MicroBatch, optional
        How many examples go through the model at once.
    clip_norm : float, optional
        Longest gradient, as an L2 norm.

    Raises
    ------
    TaskError
        If one example does not fit into the device's memory, or the loss has another shape.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    micro = micro or MicroBatch()
    sums = Sums()
    model.train()
    for group in groups:
        for batch in group:
            for losses, units in descend(model, batch, parameters, loss, count, precision, micro):
                sums.add(losses, units)
            if clip_norm is not None:
                nn.utils.clip_grad_norm_(parameters, clip_norm)
            step()
        sums.settle()
    for parameter in parameters:
        parameter.grad = None
    return sums


def descend(
    model: nn.Module,
    batch: Batch,
    parameters: Sequence[nn.Parameter],
    loss: Loss,
    count: Count,
    precision: Precision,
    micro: MicroBatch,
) -> list[tuple[Tensor, int]]:
    """Set the gradients of the mean loss of ``batch``; return its losses and their units, a micro-batch each.

    Mean losses of micro-batches weigh by their units, losses of examples alike: together they are the batch's mean. One
    without units has no mean, and moves nothing.
    """
    while True:
        for parameter in parameters:
            parameter.grad = None
        try:
            pieces = batch.pieces(micro.size)
            units = [units_of(count, *piece) for piece in pieces]
            everything = sum(units)
            losses = [
                _backward(model, piece, held / max(1, everything), size / batch.size, loss, precision)
                for (piece, size), held in zip(pieces, units, strict=True)
            ]
            if all(each.ndim for each in losses):
                return [(torch.cat(losses), everything)]
            return [(each, held) for each, held in zip(losses, units, strict=True) if held]
        except torch.OutOfMemoryError as error:
            micro.halve(batch.size, error)


def units_of(count: Count, batch: Any, items: int) -> int:
    """What ``count`` says of a batch that was made of ``items`` items, whichever kind of number it returns.

    Raises
    ------
    TaskError
        If it is no whole number from 0 on, or there is no ``count`` and the examples cannot be told.
    """
    if count is None:
        return examples_in(batch, items)
    found: Any = count(batch)
    try:
        units = float(found)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        units = math.nan
    if not (units >= 0 and units.is_integer()):
        what = "nothing" if found is None else shown(found)
        raise TaskError(f"count() returned {what}", "return how many units the batch holds, such as len(batch)")
    return int(units)


def _backward(
    model: nn.Module, batch: Any, of_units: float, of_examples: float, loss: Loss, precision: Precision
) -> Tensor:
    with precision():
        losses = loss(model, batch)
    if not isinstance(losses, Tensor) or losses.ndim > 1:
        what = f"a tensor of shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else type(losses).__name__
        raise TaskError(f"loss() returned {what}", "return the mean loss, or a tensor with one loss a sample")
    # Backward starts with d(mean loss)/d(sample loss), since the losses of all samples are needed anyway.
    if share := of_examples if losses.ndim else of_units:
        torch.autograd.backward(losses, torch.full_like(losses, share / max(1, losses.numel())))
    return losses.detach()


def mean_gradient(
    model: nn.Module, batches: Iterator[Batch], *, loss: Loss, count: Count, micro: MicroBatch
) -> dict[str, Tensor]:
    """Gradient of the mean loss over all units, by the trainable parameters' names, in float32 at least.

    A sum over thousands of units is beyond the largest float16 and the precision of bfloat16.
    Layers behave as in evaluation: nothing is dropped, and running statistics are used, not changed.
    """
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    totals = {
        name: torch.zeros_like(parameter, dtype=torch.promote_types(parameter.dtype, torch.float32))
        for name, parameter in named.items()
    }
    everything = 0
    model.eval()
    with torch.backends.cudnn.flags(enabled=not any(isinstance(module, nn.RNNBase) for module in model.modules())):
        # cuDNN gives recurrent layers no gradient in evaluation
        for batch in batches:
            done = descend(model, batch, list(named.values()), loss, count, contextlib.nullcontext, micro)
            units = sum(held for _, held in done)
            for name, parameter in named.items():
                if parameter.grad is not None:
                    totals[name].add_(parameter.grad, alpha=units)
            everything += units
    for parameter in named.values():
        parameter.grad = None
    return {name: total / max(1, everything) for name, total in totals.items()}


def precision_of(model: nn.Module, device: torch.device) -> Precision:
    """Context of a forward pass: bfloat16 for large models on CUDA, float32 elsewhere."""
    large = sum(parameter.numel() for parameter in model.parameters()) >= BFLOAT16_PARAMETERS
    if large and device.type == "cuda" and torch.cuda.is_bf16_supported():
        return lambda: torch.autocast("cuda", torch.bfloat16)
    return contextlib.nullcontext


def weighted_means(
    model: nn.Module,
    batches: Iterator[Batch],
    *,
    figures: Figures,
    count: Count,
    precision: Precision,
    micro: MicroBatch,
) -> tuple[int, dict[str, float]]:
    """Units, and the mean of each figure over those it was measured on.

    A figure of a batch is its mean, or one value a sample.

    Raises
    ------
    TaskError
        If the batches hold nothing.
    """
    totals: dict[str, float] = {}
    measured: dict[str, int] = {}
    everything = 0
    model.eval()
    with torch.no_grad():
        for batch in batches:
            units, found = _measured(model, batch, figures, count, precision, micro)
            for name, held, value in found:
                totals[name] = totals.get(name, 0.0) + held * value
                measured[name] = measured.get(name, 0) + held
            everything += units
    if not everything:
        raise TaskError("the data hold nothing by count()", "let count(batch) return the units of a batch")
    return everything, {name: total / measured[name] for name, total in totals.items()}


def _measured(
    model: nn.Module, batch: Batch, figures: Figures, count: Count, precision: Precision, micro: MicroBatch
) -> tuple[int, list[tuple[str, int, float]]]:
    """Units of a batch; and its figures by name, each with the units it was measured on, and its mean over them.

    As in `descend`, means of micro-batches weigh by their units, values of examples alike.
    """
    while True:
        try:
            done = []
            for piece, size in batch.pieces(micro.size):
                with precision():
                    found = figures(model, piece)
                done.append((units_of(count, piece, size), found))
            break
        except torch.OutOfMemoryError as error:
            micro.halve(batch.size, error)
    means = []
    for name in dict.fromkeys(name for _, found in done for name in found):
        parts = [(units, _checked(name, found[name])) for units, found in done if name in found]
        if all(value.ndim for _, value in parts):
            parts = [(sum(units for units, _ in parts), torch.cat([value for _, value in parts]))]
        means += [(name, units, float(value.double().mean())) for units, value in parts if units]
    return sum(units for units, _ in done), means


def _checked(name: str, value: Tensor) -> Tensor:
    if value.ndim > 1:
        raise TaskError(
            f"the figure {name!r} is a tensor of shape {tuple(value.shape)}",
            "return one number, or one an example; of a table, name the numbers one by one",
        )
    return value
