"""Speed of local training, ours and the plain PyTorch loop's on the same tensors."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hypergpu_fl.task.device import describe, resolve_device
from hypergpu_fl.task.image import place
from hypergpu_fl.task.models import Shape, build_model
from hypergpu_fl.task.optimizer import Optimizer
from hypergpu_fl.task.training import Share, train

# Images shaped as MNIST's and CIFAR-10's; their content does not matter to the speed.
SHAPES: dict[str, Shape] = {"mlp": (1, 28, 28), "simple_cnn": (1, 28, 28), "resnet18": (3, 32, 32)}
CLASSES = 10


def run_train(
    *,
    models: Sequence[str] = tuple(SHAPES),
    device: str = "auto",
    examples: int = 512,
    steps: int = 20,
    batch_size: int = 32,
    repeats: int = 7,
    clock: Callable[[], float] = time.perf_counter,
) -> list[dict[str, str | float]]:
    """Measure training throughput, ours and the plain loop's in turn, and take the medians of ``repeats`` calls.

    A call is what a node does in a round: ``steps`` batches by SGD from a fresh optimiser, with the mean loss.

    Returns
    -------
    list of dict
        ``model, device, samples_per_s, peer_samples_per_s``.
    """
    where = resolve_device(device)
    return [
        {
            "model": model,
            "device": describe(where),
            **_compare(model, where, examples, steps, batch_size, repeats, clock),
        }
        for model in models
    ]


def _compare(
    name: str,
    device: torch.device,
    examples: int,
    steps: int,
    batch: int,
    repeats: int,
    clock: Callable[[], float],
) -> dict[str, float]:
    shape = SHAPES[name]
    ours, plain = (build_model(name, shape, CLASSES, normalization="group", seed=0).to(device) for _ in range(2))
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn((examples, *shape), generator=generator).to(device)
    labels = torch.randint(CLASSES, (examples,), generator=generator).to(device)
    channels_last = place(ours, device)
    share = Share(inputs.permute(0, 2, 3, 1).contiguous() if channels_last else inputs, labels, channels_last)
    optimizer = Optimizer("sgd", learning_rate=0.01)

    ours_s, plain_s = [], []
    for repeat in range(repeats + 1):
        began_s = clock()
        train(ours, share, optimizer, steps=steps, batch_size=batch, seed=(repeat,))
        between_s = clock()
        _plain(plain, inputs, labels, steps, batch)
        ours_s.append(between_s - began_s)
        plain_s.append(clock() - between_s)
    samples = steps * batch
    # The first call of each warms up allocators and chooses convolution kernels.
    return {
        "samples_per_s": samples / statistics.median(ours_s[1:]),
        "peer_samples_per_s": samples / statistics.median(plain_s[1:]),
    }


def _plain(model: nn.Module, inputs: Tensor, labels: Tensor, steps: int, batch: int) -> float:
    """Train as PyTorch's tutorials do, reading the loss once at the end rather than every step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    total = torch.zeros((), device=inputs.device)
    model.train()
    done = 0
    while done < steps:
        order = torch.randperm(len(labels), device=inputs.device)
        for chosen in torch.split(order, batch)[: steps - done]:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(inputs[chosen]), labels[chosen])
            torch.autograd.backward(loss)
            optimizer.step()
            total += loss.detach()
            done += 1
    return float(total) / steps
