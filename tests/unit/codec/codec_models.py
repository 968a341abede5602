"""Layouts and vectors that the codec tests share."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from hypergpu_fl.codec import LEVELS
from strategies.model.layout import Layout

LEVEL_NAMES = list(LEVELS)


def arrays_of(sizes: list[tuple[str, int]]) -> dict[str, NDArray]:
    """Float32 arrays, except names ending in 'tracked' (int64, 0-d) and 'mask' (bool)."""
    made: dict[str, NDArray] = {}
    for name, size in sizes:
        if name.endswith("tracked"):
            made[name] = np.array(size, dtype=np.int64)
        elif name.endswith("mask"):
            made[name] = np.arange(size) % 2 == 0
        else:
            made[name] = np.zeros(size, dtype=np.float32)
    return made


MIXED = arrays_of(
    [
        ("conv.weight", 9000),
        ("bn.weight", 3),
        ("bn.running_mean", 3),
        ("bn.running_var", 3),
        ("bn.num_batches_tracked", 17),
        ("empty", 0),
        ("fc.weight", 8000),
        ("bn2.running_var", 5),
        ("drop.mask", 11),
        ("fc.bias", 1),
    ]
) | {"temperature": np.array(0.5, dtype=np.float32)}
PLAIN = arrays_of([("weight", 20_000)])
TINY = arrays_of([("weight", 1)])
NONE = arrays_of([("steps_tracked", 3)])
MODELS = {"mixed": MIXED, "plain": PLAIN, "tiny": TINY, "no floats": NONE}


def statistics(layout: Layout) -> NDArray[np.bool_]:
    mask = np.zeros(layout.size, dtype=bool)
    for e in layout.entries:
        if e.is_float and e.name.endswith(("running_mean", "running_var")):
            mask[e.offset : e.offset + e.size] = True
    return mask


@st.composite
def vectors(draw: st.DrawFn, size: int) -> NDArray[np.float32]:
    """Updates of many shapes: Gaussian, heavy-tailed, sparse, constant, with ties and zeros."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["gauss", "heavy", "sparse", "constant", "ties", "zero"]))
    scale = 10.0 ** draw(st.integers(-9, 6))
    values = {
        "gauss": lambda: rng.standard_normal(size),
        "heavy": lambda: rng.standard_cauchy(size).clip(-1e6, 1e6),
        "sparse": lambda: rng.standard_normal(size) * (rng.random(size) < 0.01),
        "constant": lambda: np.ones(size),
        "ties": lambda: rng.integers(-3, 4, size),
        "zero": lambda: np.zeros(size),
    }[kind]()
    return (values * scale).astype(np.float32)
