"""Numba, with a compile cache that works wherever the app was unpacked.

A Flower node starts one Python process a message, so machine code must survive the process. Numba caches beside
the source, else in the user's cache folder, and raises if neither can be written. In that last case (a read-only
image without a home) the cache goes to a private folder below the temporary directory; numba's cache files are
pickles, so that folder must belong to this user and be closed to others, or nothing is cached at all.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba import types

F = TypeVar("F", bound=Callable[..., Any])

# array types of kernel arguments: inputs may be read-only, outputs may not
F32_IN = types.Array(types.float32, 1, "C", readonly=True)
U8_IN = types.Array(types.uint8, 1, "C", readonly=True)
I8_IN = types.Array(types.int8, 1, "C", readonly=True)
U16_IN = types.Array(types.uint16, 1, "C", readonly=True)
U32_IN = types.Array(types.uint32, 1, "C", readonly=True)
F32, U8, I8, U16, U32, I32 = (
    t[::1] for t in (types.float32, types.uint8, types.int8, types.uint16, types.uint32, types.int32)
)


def cache_folder(source: Path, home: Path, temporary: Path) -> Path | None:
    """Where numba shall cache: None for its own choice, else a private folder below ``temporary``.

    Raises
    ------
    PermissionError
        If that folder exists but belongs to someone else or is open to others.
    """
    if os.access(source, os.W_OK) or os.environ.get("NUMBA_CACHE_DIR"):
        return None
    if os.access(next(p for p in (home, *home.parents) if p.exists()), os.W_OK):
        return None
    folder = temporary / f"hypergpu-numba-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    info = folder.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid() or info.st_mode & 0o077:
        raise PermissionError(f"{folder} is not a private folder of this user")
    return folder


def choose_cache() -> bool:
    """Set numba's cache folder; False where nothing may be cached."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    try:
        folder = cache_folder(Path(__file__).parent, home, Path(tempfile.gettempdir()))
    except OSError:
        return False
    if folder is not None:
        vars(numba.config)["CACHE_DIR"] = str(folder)  # a module that numba fills as it is imported
    return True


CACHED = choose_cache()


def kernel(result: Any, *arguments: Any) -> Callable[[F], F]:
    """Compile for exactly this signature, once a machine; the GIL is released while it runs."""

    def compile_(function: F) -> F:
        compiled: F = numba.njit(result(*arguments), nogil=True, cache=CACHED)(function)
        return compiled

    return compile_


def inlined(function: F) -> F:
    """Compile as a part of the kernels that call it."""
    compiled: F = numba.njit(function, nogil=True, cache=CACHED)
    return compiled
