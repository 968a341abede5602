"""The torch path gives the compiled kernels' bytes; on CPU tensors here, on a GPU where there is one."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from codec_models import LEVEL_NAMES, MIXED, MODELS, arrays_of, vectors
from hypothesis import given, settings
from hypothesis import strategies as st

from hypergpu_fl.codec import decode, encode_with_feedback
from hypergpu_fl.codec.device import Kernels, add_to_tensor, encode_tensor, kernels_for, operations
from hypergpu_fl.codec.errors import NotFinite
from strategies.errors import LayoutError
from strategies.model.layout import Layout


def compare(
    name: str,
    delta: np.ndarray,
    old: np.ndarray | None,
    layout: Layout,
    buffers: dict,
    device: str,
    kernels: Kernels | None = None,
) -> None:
    blob, residual = encode_with_feedback(name, delta, old, layout, buffers, base=1)
    tensors = [None if v is None else torch.from_numpy(v.copy()).to(device) for v in (delta, old)]
    theirs, left = encode_tensor(name, tensors[0], tensors[1], layout, buffers, base=1, kernels=kernels)
    assert theirs == blob
    np.testing.assert_array_equal(left.view(torch.int32).cpu().numpy(), residual.view(np.int32))
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
    rng = np.random.default_rng(1)
    for arrays in (MIXED, arrays_of([("weight", 8191)]), arrays_of([("weight", 3_000_017)])):
        layout, size = Layout.of(arrays), Layout.of(arrays).size
        kinds = [rng.standard_t(3, size), rng.standard_normal(size) * (rng.random(size) < 0.01)]
        if size < 1_000_000:
            kinds += [rng.integers(-3, 4, size), np.ones(size), np.zeros(size) * -1, rng.standard_normal(size) * 1e-43]
        for kernels in (None, operations):
            for delta in (kind.astype(np.float32) for kind in kinds):
                compare(name, delta, None, layout, layout.buffers(arrays), "cuda", kernels)
                compare(name, delta, rng.permutation(delta), layout, layout.buffers(arrays), "cuda", kernels)


@pytest.mark.gpu
def test_a_gpu_that_triton_runs_on_uses_compiled_kernels() -> None:
    assert kernels_for(torch.empty(0, device="cuda").device) is importlib.import_module(
        "hypergpu_fl.codec.device.kernels"
    )


@pytest.mark.gpu
@pytest.mark.parametrize("name", LEVEL_NAMES)
def test_a_gpu_refuses_what_does_not_fit(name: str) -> None:
    layout = Layout.of(arrays_of([("weight", 50_000)]))
    for value in (torch.nan, -torch.nan, torch.inf, 2.0**120):
        values = torch.linspace(-1, 1, layout.size, device="cuda")
        values[-9_000:] = value
        with pytest.raises(NotFinite):
            encode_tensor(name, values, None, layout, {}, base=0)


def test_the_residual_goes_where_it_is_asked_to() -> None:
    layout = Layout.of(MIXED)
    delta, residual = torch.linspace(-1, 1, layout.size), torch.linspace(0, 0.1, layout.size)
    expected = encode_tensor("int8", delta, residual, layout, layout.buffers(MIXED), base=0)
    found = encode_tensor("int8", delta, residual, layout, layout.buffers(MIXED), base=0, out=residual)
    assert found[0] == expected[0] and found[1] is residual and torch.equal(found[1], expected[1])


def test_tensors_that_do_not_fit_are_refused() -> None:
    layout = Layout.of(arrays_of([("weight", 10)]))
    with pytest.raises(LayoutError):
        encode_tensor("int8", torch.zeros(9), None, layout, {}, base=0)
    with pytest.raises(LayoutError):
        encode_tensor("int8", torch.zeros(10, dtype=torch.float64), None, layout, {}, base=0)
    with pytest.raises(NotFinite):
        encode_tensor("int8", torch.full((10,), torch.nan), None, layout, {}, base=0)
