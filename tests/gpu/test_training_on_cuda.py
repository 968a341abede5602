from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hypergpu_fl.config import Training
from hypergpu_fl.task import TrainContext, load_task
from hypergpu_fl.task.device import describe, resolve_device

pytestmark = pytest.mark.gpu


def order(folder: Path, *, steps: int, seed: int, device: torch.device) -> TrainContext:
    return TrainContext(steps=steps, batch_size=16, seed=seed, device=device, folder=folder)


@pytest.mark.parametrize("architecture", ["mlp", "simple_cnn"])
def test_a_gpu_trains_small_models_to_the_weights_of_the_cpu(architecture: str, tmp_path: Path) -> None:
    task = load_task(Training(model_architecture=architecture, num_nodes=2, partitioner="iid"), cache=tmp_path)
    outcomes = []
    for name in ("cpu", "cuda"):
        model = task.model()
        result = task.train(model, 0, order(tmp_path, steps=5, seed=3, device=resolve_device(name)))
        outcomes.append((result.loss, task.arrays(model)))
    (cpu_loss, cpu), (gpu_loss, gpu) = outcomes
    assert gpu_loss == pytest.approx(cpu_loss, rel=1e-2)
    assert all(np.allclose(cpu[name], gpu[name], atol=2e-2) for name in cpu)


def test_bfloat16_training_of_a_large_model_learns_and_keeps_float32_weights(tmp_path: Path) -> None:
    task = load_task(Training(model_architecture="resnet18", num_nodes=2, partitioner="iid"), cache=tmp_path)
    device = resolve_device("cuda")
    model = task.model()
    first = task.train(model, 0, order(tmp_path, steps=20, seed=0, device=device))
    last = task.train(model, 0, order(tmp_path, steps=20, seed=1, device=device))
    assert last.loss < first.loss
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert task.evaluate(model, device=device).count == task.evaluate(task.model(), device=device).count


def test_auto_chooses_the_gpu_and_tells_its_name() -> None:
    device = resolve_device("auto")
    assert device == torch.empty(0, device="cuda").device
    assert describe(device) == torch.cuda.get_device_name()
