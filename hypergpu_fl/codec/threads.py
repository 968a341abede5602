"""Threads: a few for work that releases the GIL, compiled kernels and Zstandard, and one that readies the kernels.

Results never depend on how many there are; see `hypergpu_fl.codec.encode_kernels`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import import_module
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")
MOST = 8
KERNELS = ("byte_kernels", "decode_kernels", "encode_kernels")  # modules that are compiled as they are imported


@cache
def _pool(process: int) -> ThreadPoolExecutor | None:
    cores = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, MOST)
    return ThreadPoolExecutor(cores, thread_name_prefix="codec") if cores > 1 else None


def ordered_map(function: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
    """``map`` on a few threads, in order; on none for a single item. Keyed by process, for a fork has no threads."""
    todo = list(items)
    pool = _pool(os.getpid()) if len(todo) > 1 else None
    return map(function, todo) if pool is None else pool.map(function, todo)


@cache
def compile_ahead() -> None:
    """Compile the kernels, or load them, in a thread: done by the time that the first model has been received."""
    threading.Thread(target=import_kernels, name="kernels", daemon=True).start()


def import_kernels() -> None:
    """Compile the kernels, or load them where they were compiled before."""
    for name in KERNELS:
        import_module(f"hypergpu_fl.codec.{name}")
