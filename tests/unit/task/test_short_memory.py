"""Where the device's memory holds less than a batch, training and evaluation come out alike."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from loguru import logger
from plane_task import CPU, TRAINING, Plane, order, trained, weights
from torch import Tensor, nn

from hypergpu_fl.errors import TaskError
from hypergpu_fl.task import fresh_model


@pytest.fixture
def logged() -> Iterator[list[str]]:
    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(message.strip()), format="{message}")
    yield lines
    logger.remove(sink)


class Small(Plane):
    """A device whose memory holds a few examples."""

    holds = 3

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        if len(batch[0]) > self.holds:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().loss(model, batch)


def test_short_memory_halves_the_batch_adds_up_its_gradients_says_so_and_remembers(
    tmp_path: Path, logged: list[str]
) -> None:
    task = Small(TRAINING)
    assert torch.allclose(trained(task, tmp_path), trained(Plane(TRAINING), tmp_path / "other"), atol=1e-6)
    said = [line for line in logged if "do not fit" in line]
    assert said == [
        "8 examples at once do not fit into the device's memory: from now on 4, whose gradients are added up",
        "4 examples at once do not fit into the device's memory: from now on 2, whose gradients are added up",
    ]
    again = Small(TRAINING)
    trained(again, tmp_path)
    assert [line for line in logged if "do not fit" in line] == said
    again.holds = 0
    with pytest.raises(TaskError, match="does not hold one example"):
        trained(again, tmp_path)


@settings(max_examples=20, deadline=None)
@given(holds=st.integers(1, 9), batch=st.integers(1, 12), per_sample=st.booleans())
def test_micro_batches_give_the_gradient_of_the_whole_batch(holds: int, batch: int, per_sample: bool) -> None:
    class Weighted(Small):
        """Each example counts as often as its first input says."""

        unit = "tokens"

        def count(self, batch: Any) -> int:
            return int(batch[0].shape[0]) * 7

        def loss(self, model: nn.Module, batch: Any) -> Tensor:
            if len(batch[0]) > self.holds:
                raise torch.OutOfMemoryError("out of memory")
            losses = F.mse_loss(model(batch[0]), batch[1], reduction="none").flatten()
            return losses if per_sample else losses.mean()

    task, plain = Weighted(TRAINING), Plane(TRAINING)
    task.holds = holds
    models = [fresh_model(each, 0) for each in (task, plain)]
    with tempfile.TemporaryDirectory() as folder:
        results = [
            each.train(model, 0, order(Path(folder), batch_size=batch))
            for each, model in zip((plain, task), reversed(models), strict=True)
        ][::-1]
    assert torch.allclose(weights(models[0]), weights(models[1]), atol=1e-5)
    assert results[0].count == 7 * results[1].count
    assert results[0].loss == pytest.approx(results[1].loss, rel=1e-4)


def test_evaluation_goes_on_with_less_memory_too() -> None:
    task, plain = Small(TRAINING), Plane(TRAINING)
    model = fresh_model(task, 0)
    found, whole = (each.evaluate(model, device=CPU) for each in (task, plain))
    assert found.count == whole.count and found.loss == pytest.approx(whole.loss, rel=1e-5)
    assert found.metrics == {"r2": pytest.approx(whole.metrics["r2"], rel=1e-4)}
