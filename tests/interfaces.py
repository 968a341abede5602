"""This machine's network interfaces, which one test at a time may change or depend on.

Chromium drops whatever it is loading when an interface comes or goes (ERR_NETWORK_CHANGED), and tests run side by side.
"""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LOCK = Path(tempfile.gettempdir()) / "hypergpu-tests-interfaces.lock"


@contextmanager
def interfaces() -> Iterator[None]:
    """Have the interfaces to oneself."""
    with _LOCK.open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        yield
