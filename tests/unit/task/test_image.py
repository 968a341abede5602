from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hypergpu_fl.config import Training
from hypergpu_fl.errors import TaskError
from hypergpu_fl.task import Task, TrainContext, load_task
from hypergpu_fl.task.image import ImageTask

CPU = torch.device("cpu")


def order(*, steps: int, batch_size: int, seed: int) -> TrainContext:
    return TrainContext(steps=steps, batch_size=batch_size, seed=seed, device=CPU, folder=Path("nothing is kept here"))


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> ImageTask:
    found = load_task(Training(num_nodes=4), cache=tmp_path_factory.mktemp("cache"))
    assert isinstance(found, ImageTask) and isinstance(found, Task)
    return found


def test_federated_averaging_on_the_digits_learns_them(task: ImageTask) -> None:
    model = task.model()
    base = task.arrays(model)
    sizes = [task.examples(node) for node in range(4)]
    for number in range(5):
        mean = {name: np.zeros_like(array) for name, array in base.items()}
        for node, size in enumerate(sizes):
            task.load(model, base)
            result = task.train(model, node, order(steps=max(1, size // 16), batch_size=16, seed=number))
            assert result.count == result.steps * min(16, size)
            for name, array in task.arrays(model).items():
                mean[name] += array * (size / sum(sizes))
        base = mean
    task.load(model, base)
    test, validation = task.evaluate(model, device=CPU), task.validate(model, device=CPU)
    assert test.accuracy > 0.7 and validation.accuracy > 0.7
    assert test.count == sum(test.class_examples) == 359  # a fifth of every class, rounded


def test_arrays_and_load_are_inverse(task: ImageTask) -> None:
    model, other = task.model(), task.model()
    task.train(model, 0, order(steps=3, batch_size=8, seed=0))
    task.load(other, task.arrays(model))
    for name, array in task.arrays(model).items():
        assert np.array_equal(array, task.arrays(other)[name])


def test_every_process_starts_from_the_same_weights(task: ImageTask) -> None:
    first = task.arrays(task.model())
    torch.rand(7)
    second = task.arrays(task.model())
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert all(array.dtype == np.float32 for array in first.values())


@settings(max_examples=10)
@given(seed=st.integers(0, 2**63), node=st.integers(0, 3))
def test_training_is_a_function_of_seed_and_partition(task: ImageTask, seed: int, node: int) -> None:
    outcomes = []
    for _ in range(2):
        model = task.model()
        result = task.train(model, node, order(steps=4, batch_size=16, seed=seed))
        outcomes.append((result.loss, result.squared_loss, task.arrays(model)))
        torch.rand(3)
    (loss, squared, first), (loss_again, squared_again, second) = outcomes
    assert (loss, squared) == (loss_again, squared_again)
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_an_unknown_partition_is_refused(task: ImageTask) -> None:
    with pytest.raises(TaskError, match="there is no partition 4"):
        task.examples(4)
