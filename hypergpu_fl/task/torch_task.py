"""The usual case in PyTorch: you write a model, data and a loss, and get the rest of a `Task`."""

from __future__ import annotations

import contextlib
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Self, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hypergpu_fl.config import Training
from hypergpu_fl.config.faults import shown
from hypergpu_fl.errors import TaskError
from hypergpu_fl.files import path_meant
from hypergpu_fl.task import batches
from hypergpu_fl.task.batch_form import examples_in
from hypergpu_fl.task.batches import Batch, Rows, rows_of
from hypergpu_fl.task.generators import seeded
from hypergpu_fl.task.loop import Count, MicroBatch, fit, mean_gradient, precision_of, weighted_means
from hypergpu_fl.task.optimizer import Optimizer
from hypergpu_fl.task.protocol import EvalResult, TrainContext, TrainResult
from hypergpu_fl.task.state import arrays_of, load_arrays
from hypergpu_fl.task.user_code import user_code
from strategies.prose import amount

VALIDATION_SHARE: Final = 0.1
VALIDATION_LIMIT: Final = 1000
RESIDENT_BYTES: Final = 1 << 30
KEPT_MICRO_BATCH: Final = "micro-batch"
EVALUATION_FACTOR: Final = 4  # times the training batch, since no gradients are held

Figure = float | Tensor
R = TypeVar("R", bound=Rows)


class TorchTask:
    """A `Task` made of three methods of yours: `model`, `data` and `loss`.

    ```python
    class Diabetes(TorchTask):
        def model(self):
            return nn.Linear(10, 1)

        def data(self, partition):
            ...  # (inputs, targets) of a node, or the held-out data for partition None

        def loss(self, model, batch):
            inputs, targets = batch
            return F.mse_loss(model(inputs), targets)
    ```

    Devices, bfloat16 on CUDA, micro-batches where memory is short, seeds, the optimiser of the configuration,
    evaluation and the model's arrays come with it. Every other method here has a default that may be replaced.

    Parameters
    ----------
    training : Training
        The section of the configuration; ``training.options`` is yours, and read by nobody else.

    Attributes
    ----------
    unit : str
        What is counted, in the plural. With another one than examples, `count` says how many a batch holds.
    version : str
        Change it when server and nodes must not mix the old and the new task.
    site_modules : tuple of str
        Modules of the task that each site writes itself, such as what reads its data: nodes may have others.
    clip_norm : float or None
        Longest gradient, as an L2 norm.
    mixed_precision : bool
        Whether models of over a million parameters compute in bfloat16 on CUDA.
    evaluation_batch : int
        Examples evaluated at once; 0: four times ``training.batch_size``.
    """

    unit: str = "examples"
    version: str = "1"
    site_modules: tuple[str, ...] = ()
    clip_norm: float | None = None
    mixed_precision: bool = True
    evaluation_batch: int = 0

    training: Training
    _micro: MicroBatch
    _sizes: dict[int, int]
    _resident: OrderedDict[tuple[Any, ...], Rows]

    def __new__(cls, training: Training, *args: Any, **options: Any) -> Self:
        """Set up here, since a task may override ``__init__`` without calling this one's."""
        task = super().__new__(cls)
        task.training = training
        task._micro = MicroBatch()
        task._sizes = {}
        task._resident = OrderedDict()
        return task

    def __init__(self, training: Training) -> None:
        pass

    @classmethod
    def unwritten(cls) -> list[str]:
        """Which of `model`, `data` and `loss` the class still lacks; one that overrides their callers needs fewer."""

        def inherited(*names: str) -> bool:
            return any(getattr(cls, name) is getattr(TorchTask, name) for name in names)

        needed = {
            "model": True,
            "data": inherited("train", "evaluate", "validate", "examples"),
            "loss": inherited("train", "evaluate", "validate"),
        }
        return [name for name, wanted in needed.items() if wanted and inherited(name)]

    def model(self) -> nn.Module:
        """Yours: the model with its first weights, on the CPU. All random generators are seeded before."""
        raise NotImplementedError(f"{type(self).__name__} has no model()")

    def data(self, partition: int | None) -> Any:
        """Yours: a node's share, or for ``partition`` None the held-out data, which no node trains on.

        One of

        - a tensor or NumPy array, or a tuple or dict of them, with the examples first: a batch has the same form;
        - anything with ``len()`` and ``[index]``, such as a torch ``Dataset`` or a list: `collate` joins its items.

        Asked for once a process and share. The nodes are ``0`` to ``training.num_nodes - 1``.
        """
        raise NotImplementedError(f"{type(self).__name__} has no data()")

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Yours: the batch's mean loss a unit as a scalar, or one loss an example, whose mean is minimised."""
        raise NotImplementedError(f"{type(self).__name__} has no loss()")

    def metrics(self, model: nn.Module, batch: Any) -> Mapping[str, Figure]:
        """Yours if you like: figures by name, each the batch's mean a unit or one value an example.

        Measured on the held-out data after every round, and by each node on the first examples of its own share.
        """
        return {}

    def summary(self, means: Mapping[str, float]) -> Mapping[str, float]:
        """Yours if you like: what is reported, from the means of `metrics` and ``"loss"`` over all the data.

        For what is no mean itself: ``{"perplexity": math.exp(means["loss"])}``.
        """
        return {name: value for name, value in means.items() if name != "loss"}

    def validation(self) -> Any:
        """Data that price contributions, apart from the test data; None: a tenth of the held-out data, at most 1,000.

        The tenth is drawn by a fixed seed, so that it is the same in every run.
        """
        return None

    def count(self, batch: Any) -> int:
        """Units in a batch; by default its examples."""
        return examples_in(batch)

    def collate(self, items: list[Any]) -> Any:
        """Join items of the data to a batch, as torch's ``DataLoader`` does."""
        return batches.joined(items)

    def optimizer(self, parameters: list[nn.Parameter], context: TrainContext) -> Callable[[], object]:
        """Function that makes one step from the gradients; by default the optimiser of the configuration, fresh.

        The ``step`` of any ``torch.optim.Optimizer`` will do. ``context.folder`` keeps state between rounds, and
        ``context.progress`` says where a schedule stands.
        """
        training = self.training
        return Optimizer(training.optimizer, training.learning_rate, training.momentum, training.weight_decay).start(
            parameters
        )

    def identity(self) -> Mapping[str, str]:
        """See `Task.identity`: the task's name and version. Add what else must be the same, such as class names."""
        return {"task": f"{type(self).__module__}:{type(self).__qualname__}", "task version": self.version}

    # What follows is the rest of the protocol, and seldom replaced.

    def arrays(self, model: nn.Module) -> dict[str, NDArray[Any]]:
        """See `Task.arrays`."""
        return arrays_of(model)

    def load(self, model: nn.Module, arrays: Mapping[str, NDArray[Any]]) -> None:
        """See `Task.load`."""
        load_arrays(model, arrays)

    def examples(self, partition: int) -> int:
        """See `Task.examples`."""
        if partition not in self._sizes:
            with self._told_of(f"data({partition})"):
                self._sizes[partition] = batches.length(self._read(partition))
        return self._sizes[partition]

    def train(self, model: nn.Module, partition: int, context: TrainContext) -> TrainResult:
        """See `Task.train`."""
        model.to(context.device)
        return self._fit(model, self._rows(partition, context.device), partition, context)

    def evaluate(self, model: nn.Module, *, device: torch.device, partition: int | None = None) -> EvalResult:
        """See `Task.evaluate`."""
        return self._evaluated(model, device, "test" if partition is None else partition)

    def validate(self, model: nn.Module, *, device: torch.device) -> EvalResult:
        """See `Task.validate`."""
        return self._evaluated(model, device, "validation")

    def gradient(self, model: nn.Module, *, device: torch.device) -> dict[str, NDArray[Any]]:
        """See `Differentiable.gradient`."""
        model.to(device)
        return self._gradient(model, self._rows("validation", device).batches(self._evaluation_size))

    def _gradient(self, model: nn.Module, pieces: Iterator[Batch]) -> dict[str, NDArray[Any]]:
        with user_code("computing the gradient on the validation data"):
            found = mean_gradient(model, pieces, loss=self.loss, count=self._own_count, micro=self._micro)
        return {name: gradient.to("cpu", copy=True).contiguous().numpy() for name, gradient in found.items()}

    def _fit(self, model: nn.Module, rows: Rows, partition: int, context: TrainContext) -> TrainResult:
        kept = context.folder / KEPT_MICRO_BATCH
        if not self._micro.size and kept.is_file() and (text := kept.read_text()).isdecimal():  # else cut short
            self._micro.size = int(text)
        before = self._micro.size
        with user_code(f"training on the share of partition {partition}"):
            result = fit(
                model,
                rows,
                lambda parameters: self.optimizer(parameters, context),
                loss=self.loss,
                count=self._own_count,
                steps=context.steps,
                batch_size=context.batch_size,
                seed=(context.seed, partition),
                device=context.device,
                micro=self._micro,
                clip_norm=self.clip_norm,
                mixed=self.mixed_precision,
            )
            if type(self).metrics is not TorchTask.metrics:
                first = next(iter(rows.batches(min(len(rows), self._evaluation_size))))
                result = replace(result, metrics=self._measured(model, iter([first]), context.device).metrics)
        if self._micro.size != before:
            context.folder.mkdir(parents=True, exist_ok=True)
            kept.write_text(str(self._micro.size))
        return result

    def _evaluated(self, model: nn.Module, device: torch.device, part: int | str) -> EvalResult:
        model.to(device)
        with user_code(f"evaluating on the {part} data" if isinstance(part, str) else f"evaluating on share {part}"):
            return self._measured(model, self._rows(part, device).batches(self._evaluation_size), device)

    def _measured(self, model: nn.Module, pieces: Iterator[Batch], device: torch.device) -> EvalResult:
        units, means = weighted_means(
            model,
            pieces,
            figures=self._figures,
            count=self._own_count,
            precision=precision_of(model, device) if self.mixed_precision else contextlib.nullcontext,
            micro=self._micro,
        )
        summary = _tensors(self.summary(means), "summary()")
        return EvalResult(units, means["loss"], {name: float(value) for name, value in summary.items()})

    @property
    def _own_count(self) -> Count:
        """The user's `count`, or None: by its form alone, a batch cannot always be told how many items it is of."""
        return None if type(self).count is TorchTask.count else self.count

    @property
    def _evaluation_size(self) -> int:
        return self.evaluation_batch or EVALUATION_FACTOR * self.training.batch_size

    def _figures(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        own = _tensors(self.metrics(model, batch), "metrics()")
        if "loss" in own:
            raise TaskError(
                "metrics() returned a 'loss', beside that of loss()", "give it another name, or leave it out"
            )
        return {"loss": torch.as_tensor(self.loss(model, batch)), **own}

    def _rows(self, part: int | str, device: torch.device) -> Rows:
        """Share on the device."""
        with self._told_of(f"data({part if isinstance(part, int) else None})"):
            return self._kept((part, device), lambda: rows_of(self._read(part), device, self.collate))

    def _kept(self, key: tuple[Any, ...], make: Callable[[], R]) -> R:
        """A share from the device if it is still there, else a new one; up to ``RESIDENT_BYTES`` stay."""
        if key in self._resident:
            self._resident.move_to_end(key)
            return cast(R, self._resident[key])
        rows = self._resident[key] = make()
        held = sum(other.nbytes for other in self._resident.values())
        while held > RESIDENT_BYTES and len(self._resident) > 1:
            held -= self._resident.popitem(last=False)[1].nbytes
        return rows

    @contextlib.contextmanager
    def _told_of(self, method: str) -> Iterator[None]:
        """Let an error about data name the call that returned them, and `training.data_root` if that is not there."""
        try:
            with user_code(f"reading {method}"):
                yield
        except TaskError as error:
            cause, remedy, root = error.cause.replace("data()", method, 1), error.remedy, self.training.data_root
            if root and not os.path.exists(root):
                cause = cause if root in cause else f"{cause}; training.data_root = {root!r} does not exist"
                remedy = path_meant(Path(root)) or remedy
            raise TaskError(cause, remedy) from error

    def _read(self, part: int | str) -> Any:
        """A share, or the ``"test"`` or ``"validation"`` part of what is held out."""
        if isinstance(part, int):
            with user_code(f"reading the data of partition {part}"), seeded(self.training.seed):
                return self.data(part)
        with user_code("reading the held-out data"), seeded(self.training.seed):
            own = self.validation()
            if part == "validation" and own is not None:
                with self._told_of("validation()"):
                    if not batches.length(own):
                        raise TaskError("validation() returned no example", "return at least one, or leave it out")
                return own
            held_out = self.data(None)
        if own is not None:
            return held_out
        if (size := batches.length(held_out)) < 2:
            raise TaskError(
                f"the held-out data hold {amount(size, 'example')}, too few for a test and a validation set",
                "let data(None) return more, or write validation()",
            )
        count = max(1, min(VALIDATION_LIMIT, round(VALIDATION_SHARE * size)))
        drawn = np.random.default_rng(0).permutation(size)
        return batches.subset(held_out, np.sort(drawn[:count] if part == "validation" else drawn[count:]).tolist())


def _tensors(figures: Any, returned_by: str) -> dict[str, Tensor]:
    """Figures by name as tensors, whatever kind of number they are."""
    if not isinstance(figures, Mapping):
        raise TaskError(
            f"{returned_by} returned {'nothing' if figures is None else f'an object of type {type(figures).__name__}'}",
            'return figures by name, such as {"mae": mae}',
        )
    found = {}
    for name, figure in figures.items():
        try:
            found[str(name)] = torch.as_tensor(figure)
            if found[str(name)].is_complex():
                raise TypeError("complex")
        except (TypeError, ValueError, RuntimeError) as error:
            raise TaskError(
                f"{returned_by} returned {shown(figure)} as {str(name)[:100]!r}", "let every figure be a number"
            ) from error
    return found
