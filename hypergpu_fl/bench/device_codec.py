"""Speed of the codec for updates on a GPU, one row for each level and source, beside the GPU's own copy.

Sources, updates and residuals are those of `hypergpu_fl.bench.codec`. Rates are logical float32 bytes a second, except
for ``copy_bytes_per_s``: this counts the bytes that a copy from device to device reads and writes, so it is the
memory's bandwidth. Encoding with feedback moves at least 12 bytes a value (update and residual in, residual out), so
``device_encode_bytes_per_s`` cannot exceed a third of it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from itertools import cycle

import torch
from torch import Tensor

from hypergpu_fl.bench.codec import Progress, Row, Updates, sources_of
from hypergpu_fl.codec import LEVELS, Level, decode, level
from hypergpu_fl.codec.device import Kernels, add_to_tensor, encode_tensor, kernels_for
from hypergpu_fl.codec.levels import Integers, TopK, Words
from hypergpu_fl.task.device import describe

Vectors = tuple[Tensor, Tensor, Tensor]  # update, residual so far, new residual
NOISE_VALUES = 200_000_000  # several times larger than any cache
ROTATED_BYTES = 1 << 30  # bytes of vectors used in turns, so that no cache holds what the next call reads
LEAST_CALLS = 32  # calls in one measurement of a device


def run_device_codec(
    device: torch.device,
    *,
    levels: Sequence[str] = tuple(LEVELS),
    sources: Sequence[str] = (),
    data_root: str = "",
    steps: int = 10,
    repeats: int = 9,
    architecture: str = "resnet18",
    values: int = NOISE_VALUES,
    rotated_bytes: int = ROTATED_BYTES,
    progress: Progress = lambda line: None,
) -> list[Row]:
    """Rows of ``codec, source, values, device, kernels, ratio`` and the four rates in bytes a second.

    ``device_encode`` computes codes and the new residual on the device, ``encode`` also brings the blob to the host,
    and ``decode`` adds a blob on the host to a total on the device. Parameters are those of
    `hypergpu_fl.bench.codec.run_codec`.
    """
    makers = sources_of(architecture, data_root, steps, values)
    kernels = kernels_for(device)
    rows: list[Row] = []
    for source in sources or makers:
        progress(f"{source}: making two updates")
        made = makers[source]()
        for name in levels:
            rates = measure(level(name), made, device, kernels, repeats, rotated_bytes)
            about = {"values": made[0].size, "device": describe(device), "kernels": getattr(kernels, "__name__", "")}
            rows.append({"codec": name, "source": source, **about, **rates})
            share = rates["device_encode_bytes_per_s"] / rates["copy_bytes_per_s"]
            progress(
                f"{source} {name}: {rates['ratio']:.1f}x, on the device {share:.0%} of the memory's "
                f"{rates['copy_bytes_per_s'] / 1e12:.2f} TB/s, encode {rates['encode_bytes_per_s'] / 1e9:.2f} GB/s, "
                f"decode {rates['decode_bytes_per_s'] / 1e9:.2f} GB/s"
            )
    return rows


def measure(
    chosen: Level, made: Updates, device: torch.device, kernels: Kernels, repeats: int, rotated_bytes: int
) -> Row:
    """One level's ratio and rates on the second update, with the residual that the first one left."""
    layout, buffers, updates = made
    first_P, update_P = (torch.from_numpy(update).to(device) for update in updates)
    residual_P = encode_tensor(chosen.name, first_P, None, layout, buffers, base=0, kernels=kernels)[1]
    blob, _ = encode_tensor(chosen.name, update_P, residual_P, layout, buffers, base=0, out=first_P, kernels=kernels)
    size_bytes = 4 * layout.size
    sets: list[Vectors] = [(update_P, residual_P, first_P)]
    while 3 * size_bytes * len(sets) < rotated_bytes:
        sets.append((update_P.clone(), residual_P.clone(), torch.empty_like(update_P)))
    turns, total_P = cycle(sets), torch.zeros_like(update_P)

    def encode() -> None:
        update, residual, out = next(turns)
        encode_tensor(chosen.name, update, residual, layout, buffers, base=0, out=out, kernels=kernels)

    seconds = {
        "device_encode": device_seconds(lambda: device_part(chosen, next(turns), kernels), device, len(sets), repeats),
        "copy": device_seconds(lambda: copy(next(turns)), device, len(sets), repeats) / 2,
        "encode": host_seconds(encode, device, repeats),
        "decode": host_seconds(lambda: add_to_tensor(decode(blob, layout), total_P, 0.1), device, repeats),
    }
    return {
        "ratio": size_bytes / len(blob),
        **{f"{name}_bytes_per_s": size_bytes / took_s for name, took_s in seconds.items()},
    }


def device_part(chosen: Level, vectors: Vectors, kernels: Kernels) -> tuple[Tensor, ...]:
    """Codes of a level, left on the device."""
    if isinstance(chosen, Words):
        return kernels.words(*vectors, chosen.word)
    if isinstance(chosen, Integers):
        return kernels.blocks(*vectors, chosen.block, chosen.largest)
    assert isinstance(chosen, TopK)  # there is no fourth kind
    return kernels.topk(*vectors, chosen.chunk, chosen.k)


def copy(vectors: Vectors) -> None:
    """Copy of one vector onto another."""
    vectors[2].copy_(vectors[0])


def device_seconds(call: Callable[[], object], device: torch.device, calls: int, repeats: int) -> float:
    """Seconds of a call: median of ``repeats`` measurements, each over at least ``calls`` calls in a row.

    These are enough for the first call's wait, which finds the device idle, to become negligible.
    """
    if device.type != "cuda":
        return host_seconds(call, device, repeats)
    calls = max(calls, LEAST_CALLS)
    for _ in range(calls):  # the first calls compile, and fill the allocator's cache
        call()
    took_s: list[float] = []
    for _ in range(repeats):
        start, stop = (torch.Event(device, enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(calls):
            call()
        stop.record()
        stop.synchronize()
        took_s.append(start.elapsed_time(stop) / 1e3 / calls)
    return statistics.median(took_s)


def host_seconds(call: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Seconds of a call until the device has finished: median of ``repeats``, after one call that does not count."""
    took_s = []
    for _ in range(repeats + 1):
        start_s = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        took_s.append(time.perf_counter() - start_s)
    return statistics.median(took_s[1:])
