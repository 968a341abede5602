"""Time and memory of aggregation, ours and Flower's on the same arrays, beside one pass over the memory.

The memory pass is the least that streaming must do: for each update, one numpy call reads a running total of the same
size, adds to it and writes it back. All three take turns within each repetition, so that a busy machine slows all of
them, and the least time of each counts.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict

from strategies.flower_internals import aggregate_arrayrecords
from strategies.model.aggregation import DenseUpdate, StreamingMean
from strategies.model.layout import Vector

Progress = Callable[[str], None]
Row = dict[str, Any]
MB = 1_000_000
SEED = 0


def run_aggregate(
    *,
    nodes: Sequence[int] = (10, 50),
    megabytes: float = 100.0,
    repeats: int = 5,
    progress: Progress = lambda line: None,
) -> list[Row]:
    """Rows ``{nodes, megabytes, ours_s, flower_s, memory_pass_s, peak_bytes}``.

    ``peak_bytes`` is the most memory that aggregating ``nodes`` updates of that size allocates at once, where each
    update is made when it arrives and dropped after it was added, as replies are. Times are those of ``nodes``
    additions; they cycle through ten distinct updates, so that 50 x 100 MB fit into any machine.
    """
    size = round(megabytes * MB / 4)
    rng = np.random.default_rng(SEED)
    pool = [rng.standard_normal(size, dtype=np.float32) for _ in range(min(10, max(nodes)))]
    records = [
        RecordDict({"arrays": ArrayRecord({"w": Array(v)}), "metrics": MetricRecord({"num-examples": i + 1})})
        for i, v in enumerate(pool)
    ]
    rows: list[Row] = []
    for count in nodes:
        turns = [i % len(pool) for i in range(count)]
        ours_s, flower_s, memory_s = [], [], []
        for _ in range(repeats):
            memory_s.append(_seconds(memory_pass, [pool[i] for i in turns]))
            ours_s.append(_seconds(ours, [pool[i] for i in turns]))
            flower_s.append(_seconds(aggregate_arrayrecords, [records[i] for i in turns], "num-examples"))
        rows.append(
            {
                "nodes": count,
                "megabytes": megabytes,
                "ours_s": min(ours_s),
                "flower_s": min(flower_s),
                "memory_pass_s": min(memory_s),
                "peak_bytes": peak_bytes(count, size),
            }
        )
        progress(
            f"{count} x {megabytes:g} MB: {min(ours_s):.3f} s, Flower {min(flower_s):.3f} s, "
            f"memory pass {min(memory_s):.3f} s, peak {rows[-1]['peak_bytes'] / (4 * size):.2f} x the model"
        )
    return rows


def ours(vectors: Sequence[Vector]) -> Vector:
    """The weighted mean of ``vectors``, as the strategy folds them."""
    mean = StreamingMean(vectors[0].size)
    for i, vector in enumerate(vectors):
        mean.add(DenseUpdate(vector), weight=i + 1.0, steps=1, length=1.0)
    return mean.mean()


def memory_pass(vectors: Sequence[Vector]) -> Vector:
    """One plain addition a vector: the traffic of a streaming sum without its arithmetic."""
    total_P = np.zeros(vectors[0].size, dtype=np.float32)
    for vector in vectors:
        np.add(total_P, vector, out=total_P)
    return total_P


def peak_bytes(count: int, size: int) -> int:
    """Most bytes allocated at once while ``count`` updates arrive, are added and are dropped."""
    rng = np.random.default_rng(SEED)
    tracemalloc.start()
    try:
        mean = StreamingMean(size)
        for _ in range(count):
            mean.add(DenseUpdate(rng.standard_normal(size, dtype=np.float32)), weight=1.0, steps=3, length=1.0)
        mean.mean()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _seconds(act: Callable[..., Any], *arguments: Any) -> float:
    start_s = time.perf_counter()
    act(*arguments)
    return time.perf_counter() - start_s
