"""Ratio and speed of the codec, one row for each level and source, beside the speed of copying memory.

Sources are a real update of ResNet-18 (11.2 M values, GroupNorm), which is trained here, and Gaussian noise of the same
size. Encoding uses error feedback and the second of two successive updates, so that the residual is a real one. Rates
are logical float32 bytes a second. ``memcpy`` copies the same vector in the same process, in turns with the codec, so
that a busy machine slows both.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypergpu_fl.codec import LEVELS, decode, encode_with_feedback
from strategies.model.layout import Layout, Vector

Progress = Callable[[str], None]
Row = dict[str, Any]
Updates = tuple[Layout, dict[str, NDArray[Any]], list[Vector]]  # layout, buffers, successive updates
SEED = 0
BATCH = 32  # images a step
NOISE_VALUES = 11_170_000
SOURCES = ("resnet18", "gaussian")
UPSCALED = 32  # side length the 8x8 digits are enlarged to


def run_codec(
    *,
    levels: Sequence[str] = tuple(LEVELS),
    sources: Sequence[str] = (),
    data_root: str = "",
    steps: int = 10,
    repeats: int = 9,
    architecture: str = "resnet18",
    values: int = NOISE_VALUES,
    progress: Progress = lambda line: None,
) -> list[Row]:
    """Rows ``{codec, source, ratio, fidelity, encode_bytes_per_s, decode_bytes_per_s, memcpy_bytes_per_s}``.

    Parameters
    ----------
    sources : sequence of str
        ``resnet18``, ``gaussian``; empty: both.
    data_root : str
        Where MNIST lies; empty: the digits of scikit-learn, enlarged.
    steps : int
        Local steps of each of the two updates.
    repeats : int
        Measurements of each rate, of which the median counts.
    architecture, values : str, int
        Model of the real update, and number of values of the noise.
    """
    makers = sources_of(architecture, data_root, steps, values)
    rows: list[Row] = []
    for source in sources or makers:
        progress(f"{source}: making two updates")
        layout, buffers, updates = makers[source]()
        for level in levels:
            row = {"codec": level, "source": source, **measure(level, layout, buffers, updates, repeats)}
            rows.append(row)
            progress(
                f"{source} {level}: {row['ratio']:.1f}x, fidelity {row['fidelity']:.2f}, "
                f"encode {row['encode_bytes_per_s'] / 1e9:.2f} GB/s, "
                f"decode {row['decode_bytes_per_s'] / 1e9:.2f} GB/s, memcpy {row['memcpy_bytes_per_s'] / 1e9:.1f} GB/s"
            )
    return rows


def measure(
    level: str, layout: Layout, buffers: dict[str, NDArray[Any]], updates: Sequence[Vector], repeats: int
) -> Row:
    """One level's ratio and rates on the last of the updates, with the residual that the others left.

    Its fidelity is measured on the first, which has no residual yet.
    """
    residual_P = encode_with_feedback(level, updates[0], None, layout, buffers, base=0)[1]
    lost = float(np.square(residual_P, dtype=np.float64).sum() / np.square(updates[0], dtype=np.float64).sum())
    for update_P in updates[1:-1]:
        residual_P = encode_with_feedback(level, update_P, residual_P, layout, buffers, base=0)[1]
    update_P, out_P, total_P = updates[-1], np.empty_like(updates[-1]), np.zeros_like(updates[-1])
    blob, _ = encode_with_feedback(level, update_P, residual_P, layout, buffers, base=0, out=out_P)
    seconds: dict[str, list[float]] = {"encode": [], "decode": [], "memcpy": []}
    copy_P = np.empty_like(update_P)
    work: dict[str, Callable[[], object]] = {
        "encode": lambda: encode_with_feedback(level, update_P, residual_P, layout, buffers, base=0, out=out_P),
        "decode": lambda: decode(blob, layout).add_to(total_P, 0.1),
        "memcpy": lambda: np.copyto(copy_P, update_P),
    }
    for _ in range(repeats):
        for name, function in work.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    rates = {f"{name}_bytes_per_s": update_P.nbytes / statistics.median(took) for name, took in seconds.items()}
    return {"ratio": update_P.nbytes / len(blob), "fidelity": 1 - lost, **rates}


def sources_of(architecture: str, data_root: str, steps: int, values: int) -> dict[str, Callable[[], Updates]]:
    """Functions that make the updates, by source."""
    return {
        architecture: lambda: trained_updates(architecture, data_root, steps, SEED),
        "gaussian": lambda: noise(SEED, values),
    }


def noise(seed: int, size: int) -> Updates:
    """Two updates of Gaussian noise."""
    rng = np.random.default_rng(seed)
    layout = Layout.of({"weight": np.empty(size, dtype=np.float32)})
    return layout, {}, [rng.standard_normal(size, dtype=np.float32) for _ in range(2)]


def trained_updates(architecture: str, data_root: str, steps: int, seed: int) -> Updates:
    """Two successive updates of a model trained with SGD on MNIST, or on enlarged digits."""
    import torch

    from hypergpu_fl.task.models import build_model

    inputs, labels = _images(data_root)
    model = build_model(architecture, tuple(inputs.shape[1:]), 10, normalization="group", seed=seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(inputs)))

    def arrays() -> dict[str, NDArray[Any]]:
        return {name: tensor.detach().numpy().copy() for name, tensor in model.state_dict().items()}

    layout = Layout.of(arrays())
    states = [layout.flatten(arrays())]
    for step in range(2 * steps):
        chosen = order[torch.arange(step * BATCH, (step + 1) * BATCH) % len(order)]
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(inputs[chosen]), labels[chosen])
        torch.autograd.backward(loss)
        optimizer.step()
        if step % steps == steps - 1:
            states.append(layout.flatten(arrays()))
    return layout, layout.buffers(arrays()), [b - a for a, b in zip(states, states[1:], strict=False)]


def _images(data_root: str) -> tuple[Any, Any]:
    import torch

    if data_root:
        import torchvision

        mnist = torchvision.datasets.MNIST(data_root, train=True)
        return mnist.data[:, None].float() / 255 - 0.13, mnist.targets
    from sklearn.datasets import load_digits

    digits = load_digits()
    small = torch.from_numpy(digits.images.astype(np.float32))[:, None] / 16 - 0.3
    return torch.nn.functional.interpolate(small, size=UPSCALED, mode="bilinear"), torch.from_numpy(digits.target)
