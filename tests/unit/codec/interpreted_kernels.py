"""Triton's interpreter runs the GPU kernels here: a process of its own, for Triton decides that as it is imported."""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import pytest
import torch
from codec_models import LEVEL_NAMES, MIXED, PLAIN, TINY, arrays_of, vectors
from hypothesis import given, settings
from hypothesis import strategies as st

from hypergpu_fl.codec import encode_with_feedback
from hypergpu_fl.codec.device import encode_tensor, operations
from hypergpu_fl.codec.device import kernels as gpu_kernels
from hypergpu_fl.codec.errors import NotFinite
from strategies.model.layout import Layout

MODELS = {"mixed": MIXED, "plain": PLAIN, "tiny": TINY, "almost a chunk": arrays_of([("weight", 8191)])}


def compare(name: str, delta: np.ndarray, old: np.ndarray | None, layout: Layout, buffers: dict) -> None:
    blob, residual = encode_with_feedback(name, delta, old, layout, buffers, base=1)
    for kernels in (gpu_kernels, operations):
        tensors = [None if v is None else torch.from_numpy(v.copy()) for v in (delta, old)]
        theirs, left = encode_tensor(name, *tensors, layout, buffers, base=1, out=tensors[1], kernels=kernels)
        assert theirs == blob
        # a zero's sign as well
        np.testing.assert_array_equal(left.view(torch.int32).numpy(), residual.view(np.int32))


@settings(max_examples=50)
@given(st.sampled_from(LEVEL_NAMES), st.sampled_from(sorted(MODELS)), st.booleans(), st.data())
def test_kernels_give_the_same_bytes(name: str, model: str, feedback: bool, data: st.DataObject) -> None:
    layout = Layout.of(MODELS[model])
    old = data.draw(vectors(layout.size)) if feedback else None
    compare(name, data.draw(vectors(layout.size)), old, layout, layout.buffers(MODELS[model]))


@pytest.mark.parametrize("name", LEVEL_NAMES)
def test_subnormals_and_negative_zeros_are_encoded_alike(name: str) -> None:
    layout = Layout.of(PLAIN)
    rng = np.random.default_rng(3)
    for scale in (1e-43, 1e-38, 1e35):
        values = (rng.standard_normal(layout.size) * scale).astype(np.float32)
        values[::3] = -0.0
        with np.errstate(over="ignore"):  # a chunk's sum may reach infinity, and then is not used
            compare(name, values, None, layout, {})
            compare(name, values, np.where(rng.random(layout.size) < 0.5, -values, values), layout, {})


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf, 2.0**120, -(2.0**120)])
def test_values_that_do_not_fit_are_refused(value: float) -> None:
    layout = Layout.of(PLAIN)
    values = torch.linspace(-1, 1, layout.size)
    values[-5_000:] = value  # more than are kept, and than there is room for
    for name in ("fp32", "fp16", "bf16", "int8", "int4", "top8", "top128"):
        with pytest.raises(NotFinite), np.errstate(all="ignore"):
            encode_tensor(name, values, None, layout, {}, base=0, kernels=gpu_kernels)
