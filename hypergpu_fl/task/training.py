"""Local training and evaluation, for models so small that every microsecond around them counts.

B = samples of a batch, S = steps, N = samples of the share. The share lies on the device; samples of several steps
are gathered at once, losses stay on the device until the end of a gather, and nothing else is copied or awaited.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from hypergpu_fl.errors import TaskError
from hypergpu_fl.task import EvalResult, TrainResult

GATHER_BYTES = 8 << 20
EVALUATION_BATCH = 512
# Launching the casts costs a small model more than the faster products save; where it evens out was not measured.
BFLOAT16_PARAMETERS = 1_000_000


@dataclass(frozen=True, slots=True)
class Optimizer:
    """Which optimiser a node runs; its state starts afresh every round."""

    name: str
    learning_rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0

    def start(self, parameters: list[nn.Parameter]) -> Callable[[], None]:
        """Fresh optimiser, as the function that makes one step from the parameters' gradients.

        Parameters without a gradient stay as they are. All go through torch's functional forms: the hooks around
        ``Optimizer.step`` take longer than the step of a small model, and making an ``Optimizer`` imports torch's
        compiler, 2 s in every message's process.
        """
        return self._start_sgd(parameters) if self.name == "sgd" else self._start_adam(parameters)

    def _start_sgd(self, parameters: list[nn.Parameter]) -> Callable[[], None]:
        fused = _can_fuse(parameters)
        velocity: list[Tensor | None] = [None] * len(parameters)

        @torch.no_grad()
        def step() -> None:
            used = [i for i, parameter in enumerate(parameters) if parameter.grad is not None]
            moved = [velocity[i] for i in used]
            sgd(
                [parameters[i] for i in used],
                [gradient for parameter in parameters if (gradient := parameter.grad) is not None],
                moved,
                lr=self.learning_rate,
                momentum=self.momentum,
                weight_decay=self.weight_decay,
                dampening=0.0,
                nesterov=False,
                maximize=False,
                fused=fused,
            )
            for i, buffer in zip(used, moved, strict=True):
                velocity[i] = buffer

        return step

    def _start_adam(self, parameters: list[nn.Parameter]) -> Callable[[], None]:
        fused = _can_fuse(parameters)
        means, squares = ([torch.zeros_like(p, requires_grad=False) for p in parameters] for _ in range(2))
        counts = [torch.zeros((), device=p.device if fused else "cpu") for p in parameters]

        @torch.no_grad()
        def step() -> None:
            used = [i for i, parameter in enumerate(parameters) if parameter.grad is not None]
            adam(
                [parameters[i] for i in used],
                [gradient for parameter in parameters if (gradient := parameter.grad) is not None],
                [means[i] for i in used],
                [squares[i] for i in used],
                [],
                [counts[i] for i in used],
                fused=fused,
                decoupled_weight_decay=self.name == "adamw",
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=self.learning_rate,
                weight_decay=self.weight_decay,
                eps=1e-8,
                maximize=False,
            )

        return step


def _can_fuse(parameters: list[nn.Parameter]) -> bool:
    """Whether torch has the optimisers' step as one kernel there: half the time, with the same results."""
    return all(parameter.device.type in ("cpu", "cuda") for parameter in parameters)


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

    def view(self, inputs: Tensor) -> Tensor:
        """Return the inputs as the model takes them."""
        return inputs.permute(0, 3, 1, 2) if self.channels_last else inputs


class SampleOrder:
    """Endless order of samples: one random permutation of all N after another.

    Batches are cut from it without regard to where a permutation ends, so after any number of steps every sample
    was used equally often, give or take one.
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


def train(
    model: nn.Module,
    share: Share,
    optimizer: Optimizer,
    *,
    steps: int,
    batch_size: int,
    seed: tuple[int, ...],
    clock: Callable[[], float] = time.perf_counter,
) -> TrainResult:
    """Train in place for ``steps`` batches of ``min(batch_size, N)`` samples, minimising the mean cross-entropy.

    The result is a function of the arguments alone on a CPU with a fixed number of threads. CUDA computes
    the forward pass of models of over a million parameters in bfloat16; weights and optimiser stay float32.

    Raises
    ------
    TaskError
        If the share is empty, or no step or sample is asked for.
    """
    if min(len(share), steps, batch_size) < 1:
        raise TaskError(
            f"cannot train {steps} steps of {batch_size} samples on a share of {len(share)}",
            "let all three be positive",
        )
    began_s = clock()
    device = share.labels_N.device
    B = min(batch_size, len(share))
    order = SampleOrder(len(share), np.random.default_rng(seed))
    model_seed = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0])
    parameters = [p for p in model.parameters() if p.requires_grad]
    step = optimizer.start(parameters)
    precision = _precision(model, device)
    # d(mean loss)/d(sample loss): backward starts here, since the losses of all samples are wanted anyway.
    slope_B = torch.full((B,), 1 / B, device=device)
    total = squared = 0.0
    model.train()
    with _seeded(device, model_seed):
        for inputs_SB, labels_SB in _gathers(share, order, steps, B):
            losses = []
            for inputs_B, labels_B in zip(torch.split(inputs_SB, B), torch.split(labels_SB, B), strict=True):
                with precision():
                    logits_BK = model(share.view(inputs_B))
                losses_B = F.cross_entropy(logits_BK.float(), labels_B, reduction="none")
                for parameter in parameters:
                    parameter.grad = None
                torch.autograd.backward(losses_B, slope_B)
                step()
                losses.append(losses_B.detach())
            losses_SB = torch.cat(losses).cpu().double()
            total += float(losses_SB.sum())
            squared += float(losses_SB.square().sum())
    for parameter in parameters:
        parameter.grad = None
    samples = steps * B
    return TrainResult(samples, steps, total / samples, squared / samples, clock() - began_s)


def evaluate(model: nn.Module, share: Share, classes: int) -> EvalResult:
    """Loss and accuracy on all samples of a share."""
    if not len(share):
        raise TaskError("cannot evaluate on an empty set", "give it examples")
    device = share.labels_N.device
    model.eval()
    precision = _precision(model, device)
    losses, hits = [], []
    with torch.inference_mode():
        for inputs, labels in zip(
            torch.split(share.inputs, EVALUATION_BATCH), torch.split(share.labels_N, EVALUATION_BATCH), strict=True
        ):
            with precision():
                logits = model(share.view(inputs))
            losses.append(F.cross_entropy(logits.float(), labels, reduction="none"))
            hits.append(logits.argmax(1) == labels)
        labels_N = share.labels_N.cpu()
        correct = torch.bincount(labels_N[torch.cat(hits).cpu()], minlength=classes)
        present = torch.bincount(labels_N, minlength=classes)
        loss = float(torch.cat(losses).cpu().double().mean())
    return EvalResult(len(share), loss, tuple(correct.tolist()), tuple(present.tolist()))


def _gathers(share: Share, order: SampleOrder, steps: int, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the samples of as many steps at a time as fit in ``GATHER_BYTES``: one copy instead of one a step."""
    step_bytes = batch * share.inputs[0].nbytes
    while steps:
        now = min(steps, max(1, GATHER_BYTES // step_bytes))
        chosen = torch.from_numpy(order.take(now * batch)).to(share.labels_N.device)
        yield share.inputs.index_select(0, chosen), share.labels_N.index_select(0, chosen)
        steps -= now


def _precision(model: nn.Module, device: torch.device) -> Callable[[], contextlib.AbstractContextManager[object]]:
    """Context of a forward pass: bfloat16 for large models on CUDA, float32 elsewhere."""
    large = sum(parameter.numel() for parameter in model.parameters()) >= BFLOAT16_PARAMETERS
    if large and device.type == "cuda" and torch.cuda.is_bf16_supported():
        return lambda: torch.autocast("cuda", torch.bfloat16)
    return contextlib.nullcontext


@contextlib.contextmanager
def _seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Seed what models draw themselves, such as dropout, and leave the process's generators as they were.

    Not by ``torch.random.fork_rng`` and ``torch.manual_seed``: without a GPU these queue a call with its stack for
    when CUDA starts, which takes 0.2 ms and memory that is never freed.
    """
    generators = [torch.default_generator]
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        generators.append(torch.cuda.default_generators[index])
    states = [generator.get_state() for generator in generators]
    try:
        for generator in generators:
            generator.manual_seed(seed)
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
