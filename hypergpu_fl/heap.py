"""Keeps Python's garbage collector away from objects that live as long as the process."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def long_lived() -> Iterator[None]:
    """Exempt all existing objects from garbage collection within the block.

    Torch, Flower and SQLAlchemy make half a million objects, and a full collection visits all of them. That takes
    0.15 s, and it hits the round that allocates most, which is the one that seals most contributions.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
