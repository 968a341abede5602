"""A few threads for work that releases the GIL: compiled kernels and Zstandard.

Results never depend on how many there are; see `hypergpu_fl.codec.kernels.encode_kernels`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")
MOST = 8


@cache
def _pool(process: int) -> ThreadPoolExecutor | None:
    cores = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, MOST)
    return ThreadPoolExecutor(cores, thread_name_prefix="codec") if cores > 1 else None


def ordered_map(function: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
    """``map`` on a few threads, in order; a single item needs none. A forked process gets a pool of its own."""
    todo = list(items)
    pool = _pool(os.getpid()) if len(todo) > 1 else None
    return map(function, todo) if pool is None else pool.map(function, todo)
