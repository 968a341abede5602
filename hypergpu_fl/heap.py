"""Python's garbage collector kept away from what lives as long as the process."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def long_lived() -> Iterator[None]:
    """Leave everything that exists now out of collections within the block.

    Torch, Flower and SQLAlchemy are half a million objects, and a full collection walks over all of them: 0.15 s, in
    whichever round happens to allocate the most, which is the one that seals most contributions.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
