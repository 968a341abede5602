from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec

import numpy as np
import pytest
from codec_models import MIXED

from hypergpu_fl.codec import LEVELS, encode, threads
from strategies.model.layout import Layout


@pytest.fixture(scope="session")
def layout() -> Layout:
    return Layout.of(MIXED)


@pytest.fixture(scope="session")
def blobs(layout: Layout) -> dict[str, bytes]:
    """One valid blob of the mixed model a level."""
    vector = np.random.default_rng(2).standard_normal(layout.size).astype(np.float32)
    return {name: encode(name, vector, layout, layout.buffers(MIXED), base=5) for name in LEVELS}


@pytest.fixture(scope="session")
def triton() -> None:
    """Triton, which torch's CPU builds do without."""
    if find_spec("triton") is None:
        pytest.skip("no Triton beside this build of torch")


@pytest.fixture
def to_one_core() -> Iterator[Callable[[], None]]:
    """Takes all cores but one away from this thread, until the test ends."""
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("only Linux takes cores away from a thread")
    before = os.sched_getaffinity(0)

    def have(cores: set[int]) -> None:
        os.sched_setaffinity(0, cores)
        threads._pool.cache_clear()  # it was made for the cores that there were

    yield lambda: have({min(before)})
    have(before)
