"""CPU kernels, compiled by numba once a machine; they are compiled as their modules are imported."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Final

CACHES: Final = "USERS_XDG_CACHE_HOME"  # no setting: what XDG_CACHE_HOME was before a run set its own
KERNELS = ("byte_kernels", "decode_kernels", "encode_kernels")


def user_caches(environ: Mapping[str, str]) -> Path | None:
    """The user's caches, in one folder of which compiled kernels are kept; None without a home."""
    if caches := environ.get(CACHES) or environ.get("XDG_CACHE_HOME"):
        return Path(caches)
    return Path(environ["HOME"]) / ".cache" if environ.get("HOME") else None


@cache
def compile_ahead() -> None:
    """Compile the kernels, or load them, in a thread: done by the time that the first model has been received."""
    threading.Thread(target=import_kernels, name="kernels", daemon=True).start()


def import_kernels() -> None:
    """Compile the kernels, or load them where they were compiled before."""
    for name in KERNELS:
        import_module(f"{__name__}.{name}")
