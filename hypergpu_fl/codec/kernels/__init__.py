"""CPU kernels, compiled by numba once a machine; they are compiled as their modules are imported."""

from __future__ import annotations

import threading
from functools import cache
from importlib import import_module

KERNELS = ("byte_kernels", "decode_kernels", "encode_kernels")


@cache
def compile_ahead() -> None:
    """Compile the kernels, or load them, in a thread: done by the time that the first model has been received."""
    threading.Thread(target=import_kernels, name="kernels", daemon=True).start()


def import_kernels() -> None:
    """Compile the kernels, or load them where they were compiled before."""
    for name in KERNELS:
        import_module(f"{__name__}.{name}")
