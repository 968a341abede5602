"""The torch path gives the compiled kernels' bytes; on CPU tensors here, on a GPU where there is one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from codec_models import LEVEL_NAMES, MIXED, MODELS, arrays_of, vectors
from hypothesis import given, settings
from hypothesis import strategies as st

from hypergpu_fl.codec import decode, encode_with_feedback
from hypergpu_fl.codec.device import add_to_tensor, encode_tensor
from hypergpu_fl.codec.errors import NotFinite
from strategies.errors import LayoutError
from strategies.layout import Layout


def compare(name: str, delta: np.ndarray, old: np.ndarray | None, layout: Layout, buffers: dict, device: str) -> None:
    blob, residual = encode_with_feedback(name, delta, old, layout, buffers, base=1)
    tensors = [None if v is None else torch.from_numpy(v.copy()).to(device) for v in (delta, old)]
    theirs, left = encode_tensor(name, tensors[0], tensors[1], layout, buffers, base=1)
    assert theirs == blob
    np.testing.assert_array_equal(left.cpu().numpy(), residual)
    assert left.device.type == device
    np.testing.assert_array_equal(tensors[0].cpu().numpy(), delta)
    total = np.linspace(-1, 1, layout.size, dtype=np.float32)
    on_device = torch.from_numpy(total.copy()).to(device)
    update = decode(blob, layout)
    update.add_to(total, 0.25)
    add_to_tensor(update, on_device, 0.25)
    np.testing.assert_allclose(on_device.cpu().numpy(), total, rtol=1e-6, atol=1e-6 * np.abs(total).max(initial=0))


@settings(max_examples=80)
@given(st.sampled_from(LEVEL_NAMES), st.sampled_from(sorted(MODELS)), st.booleans(), st.data())
def test_torch_gives_the_same_bytes(name: str, model: str, feedback: bool, data: st.DataObject) -> None:
    layout = Layout.of(MODELS[model])
    old = data.draw(vectors(layout.size)) if feedback else None
    compare(name, data.draw(vectors(layout.size)), old, layout, layout.buffers(MODELS[model]), "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("name", LEVEL_NAMES)
def test_a_gpu_gives_the_same_bytes(name: str) -> None:
    for arrays in (MIXED, arrays_of([("weight", 3_000_017)])):
        layout = Layout.of(arrays)
        rng = np.random.default_rng(1)
        delta, old = (rng.standard_t(3, layout.size).astype(np.float32) for _ in range(2))
        compare(name, delta, old, layout, layout.buffers(arrays), "cuda")


def test_tensors_that_do_not_fit_are_refused() -> None:
    layout = Layout.of(arrays_of([("weight", 10)]))
    with pytest.raises(LayoutError):
        encode_tensor("int8", torch.zeros(9), None, layout, {}, base=0)
    with pytest.raises(LayoutError):
        encode_tensor("int8", torch.zeros(10, dtype=torch.float64), None, layout, {}, base=0)
    with pytest.raises(NotFinite):
        encode_tensor("int8", torch.full((10,), torch.nan), None, layout, {}, base=0)
