"""A disk that takes no more, for real: the kernel refuses to let any file grow beyond a limit."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator


@contextlib.contextmanager
def full_disk(*, largest_bytes: int) -> Iterator[None]:
    """Within the block, a file of this process cannot grow beyond ``largest_bytes``; Python raises ``OSError``."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
