"""Training and evaluation of image classifiers: their own data path around the common loop.

B = samples of a batch, S = steps, N = samples of the share. The share lies on the device, and samples of several steps
are gathered at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hypergpu_fl.errors import TaskError
from hypergpu_fl.task.batches import GATHER_BYTES, Batch, ExampleOrder
from hypergpu_fl.task.loop import MicroBatch, fit, precision_of
from hypergpu_fl.task.optimizer import Optimizer
from hypergpu_fl.task.protocol import EvalResult, TrainResult
from strategies.prose import amount

EVALUATION_BATCH = 512

ImageBatch = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class ImageResult(EvalResult):
    """An evaluation that also has, per class, the number of examples and how many were classified correctly."""

    class_correct: tuple[int, ...] = ()
    class_examples: tuple[int, ...] = ()

    @property
    def accuracy(self) -> float:
        """Share of the examples classified correctly."""
        return self.metrics["accuracy"]


@dataclass(frozen=True, slots=True)
class Share:
    """Samples on a device: ``inputs`` with the samples first, ``labels_N``, and the layout of a batch.

    With ``channels_last`` the inputs are stored as (N, H, W, C) and a batch is their view as (B, C, H, W), which is
    the memory format that convolutions are fastest in.
    """

    inputs: Tensor
    labels_N: Tensor
    channels_last: bool = False

    def __len__(self) -> int:
        return len(self.labels_N)

    @property
    def nbytes(self) -> int:
        """Bytes of the inputs."""
        return self.inputs.nbytes

    def view(self, inputs: Tensor) -> Tensor:
        """Return the inputs as the model takes them."""
        return inputs.permute(0, 3, 1, 2) if self.channels_last else inputs

    def groups(self, order: ExampleOrder, steps: int, batch: int) -> Iterator[Iterator[Batch]]:
        """As many steps at a time as fit in ``GATHER_BYTES``: one copy instead of one a step."""
        step_bytes = batch * self.inputs[0].nbytes
        while steps:
            now = min(steps, max(1, GATHER_BYTES // step_bytes))
            chosen = torch.from_numpy(order.take(now * batch)).to(self.labels_N.device)
            inputs_SB, labels_SB = self.inputs.index_select(0, chosen), self.labels_N.index_select(0, chosen)
            yield (
                self._batch(inputs_B, labels_B)
                for inputs_B, labels_B in zip(torch.split(inputs_SB, batch), torch.split(labels_SB, batch), strict=True)
            )
            steps -= now

    def batches(self, batch: int) -> Iterator[Batch]:
        """All samples as they lie."""
        for inputs, labels in zip(torch.split(self.inputs, batch), torch.split(self.labels_N, batch), strict=True):
            yield self._batch(inputs, labels)

    def _batch(self, inputs_B: Tensor, labels_B: Tensor) -> Batch:
        return Batch.of_columns((self.view(inputs_B), labels_B), len(labels_B))


def sample_losses(model: nn.Module, batch: ImageBatch) -> Tensor:
    """Cross-entropy of each sample."""
    inputs_B, labels_B = batch
    return F.cross_entropy(logits_of(model, inputs_B).float(), labels_B, reduction="none")


def logits_of(model: nn.Module, inputs_B: Tensor) -> Tensor:
    """The model's logits.

    Raises
    ------
    TaskError
        If the model returns something else.
    """
    logits_BK = model(inputs_B)
    if not isinstance(logits_BK, Tensor) or logits_BK.ndim != 2 or len(logits_BK) != len(inputs_B):
        shape = f" of shape {tuple(logits_BK.shape)}" if isinstance(logits_BK, Tensor) else ""
        raise TaskError(
            f"the model returns a {type(logits_BK).__name__}{shape} for {amount(len(inputs_B), 'image')}",
            "let forward() return the logits alone, a tensor of (images, classes)",
        )
    return logits_BK


def train(
    model: nn.Module,
    share: Share,
    optimizer: Optimizer,
    *,
    steps: int,
    batch_size: int,
    seed: tuple[int, ...],
    clock: Callable[[], float] = time.perf_counter,
    micro: MicroBatch | None = None,
) -> TrainResult:
    """Train in place for ``steps`` batches of ``min(batch_size, N)`` samples, minimising the mean cross-entropy.

    See `hypergpu_fl.task.loop.fit`.
    """
    return fit(
        model,
        share,
        optimizer.start,
        loss=sample_losses,
        count=None,
        steps=steps,
        batch_size=batch_size,
        seed=seed,
        device=share.labels_N.device,
        clock=clock,
        micro=micro,
    )


def evaluate(model: nn.Module, share: Share, classes: int) -> ImageResult:
    """Loss and accuracy on all samples of a share."""
    if not len(share):
        raise TaskError("cannot evaluate on an empty set", "give it examples")
    model.eval()
    precision = precision_of(model, share.labels_N.device)
    losses, hits = [], []
    with torch.inference_mode():
        for batch in share.batches(EVALUATION_BATCH):
            (((inputs, labels), _),) = batch.pieces()
            with precision():
                logits = logits_of(model, inputs)
            if logits.shape[1] < classes:
                raise TaskError(
                    f"the model gives {amount(logits.shape[1], 'logit')}, but the data have {classes} classes",
                    "let the last layer have one output a class: a model's factory is called as name(shape, classes)",
                )
            losses.append(F.cross_entropy(logits.float(), labels, reduction="none"))
            hits.append(logits.argmax(1) == labels)
        labels_N = share.labels_N.cpu()
        correct = tuple(torch.bincount(labels_N[torch.cat(hits).cpu()], minlength=classes).tolist())
        present = tuple(torch.bincount(labels_N, minlength=classes).tolist())
        loss = float(torch.cat(losses).cpu().double().mean())
    return ImageResult(len(share), loss, {"accuracy": sum(correct) / len(share)}, correct, present)
