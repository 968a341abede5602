"""One writer a file: what two processes would write over each other."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def exclusive(file: Path, refusal: Exception) -> Iterator[None]:
    """Hold an exclusive lock on ``file``, which is made if need be; the kernel drops it when the process dies.

    Raises
    ------
    Exception
        ``refusal``, if another process holds it.
    """
    descriptor = os.open(file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise refusal from None
        yield
    finally:
        os.close(descriptor)
