"""Numba, with a compile cache that a machine fills once, wherever the app was unpacked.

Machine code must survive the process that compiled it, and the next copy of the app: Flower unpacks every version into
a folder of its own, and numba's caches go by folders. So kernels are kept by what the codec's sources say, in the
user's cache folder, else (a read-only image without a home) below the temporary directory. Numba's cache files are
pickles, so the folder must belong to this user and be closed to others, or nothing is cached at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FunctionType
from typing import Any, TypeVar

import numba
from numba import types
from numba.core.caching import UserProvidedCacheLocator

from hypergpu_fl.codec.kernels import KERNELS, user_caches

F = TypeVar("F", bound=Callable[..., Any])

# array types of kernel arguments: inputs may be read-only, outputs may not
F32_IN = types.Array(types.float32, 1, "C", readonly=True)
U8_IN = types.Array(types.uint8, 1, "C", readonly=True)
I8_IN = types.Array(types.int8, 1, "C", readonly=True)
U16_IN = types.Array(types.uint16, 1, "C", readonly=True)
U32_IN = types.Array(types.uint32, 1, "C", readonly=True)
F32, U8, I8, U16, U32 = (t[::1] for t in (types.float32, types.uint8, types.int8, types.uint16, types.uint32))


def cache_folder(environ: Mapping[str, str], temporary: Path) -> Path | None:
    """Folder below the user's caches or the temporary directory that is this user's alone; None if neither can be."""
    folders = [temporary / f"hypergpu-cache-{os.getuid()}"]
    if caches := user_caches(environ):
        folders.insert(0, caches / "hypergpu")
    for folder in folders:
        with contextlib.suppress(OSError):  # a folder that cannot be made is none; the next is tried
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            info = folder.lstat()
            ours = stat.S_ISDIR(info.st_mode) and info.st_uid == os.getuid() and not info.st_mode & 0o022
            if ours and os.access(folder, os.W_OK):
                return folder
    return None


def digest_of(folder: Path) -> str:
    """Hex digits that stand for the kernels' sources: those in ``folder``, whose time and place do not matter."""
    sources = (folder / f"{name}.py" for name in (*KERNELS, "float_conversions", "compiled"))
    return hashlib.sha256(b"\0".join(source.read_bytes() for source in sources)).hexdigest()[:16]


FOLDER = cache_folder(os.environ, Path(tempfile.gettempdir()))


class KernelLocator(UserProvidedCacheLocator):
    """Tells numba where a kernel's machine code lies; see the module."""

    def __init__(self, function: FunctionType, source: str) -> None:
        self._py_file = source
        self._lineno = function.__code__.co_firstlineno
        self._cache_path = str(Path(FOLDER or "") / f"kernels-{digest_of(Path(source).parent)}")

    @classmethod
    def from_function(cls, function: FunctionType, source: str) -> KernelLocator:
        """The locator for a function of the source file ``source``."""
        locator = cls(function, source)
        Path(locator._cache_path).mkdir(exist_ok=True)
        return locator


def _njit(function: F, signature: Any = None) -> F:
    """Compile, or load; the GIL is released while it runs."""
    settings = vars(numba.config)  # a module that numba fills as it is imported
    before = settings.get("CACHE_LOCATOR_CLASSES", "")
    settings["CACHE_LOCATOR_CLASSES"] = f"{__name__}.{KernelLocator.__name__}"
    try:
        compiled: F = numba.njit(signature, nogil=True, cache=FOLDER is not None)(function)
    finally:
        settings["CACHE_LOCATOR_CLASSES"] = before
    return compiled


def kernel(result: Any, *arguments: Any) -> Callable[[F], F]:
    """Compile for exactly this signature, once a machine."""
    return lambda function: _njit(function, result(*arguments))


def inlined(function: F) -> F:
    """Compile as a part of the kernels that call it."""
    return _njit(function)
