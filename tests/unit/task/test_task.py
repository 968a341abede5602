from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from hypergpu_fl.config import System, Training
from hypergpu_fl.errors import TaskError
from hypergpu_fl.task import Task, TrainContext, load_task
from hypergpu_fl.task.image import ImageTask

CPU = torch.device("cpu")


def order(folder: Path, *, steps: int, batch_size: int) -> TrainContext:
    return TrainContext(steps=steps, batch_size=batch_size, seed=0, device=CPU, folder=folder)


class OwnTask(ImageTask):
    """A user's own task; here the built-in one with another constructor."""

    def __init__(self, training: Training) -> None:
        super().__init__(training.model_copy(update={"task": ""}), Path(training.data_root))


class Halfway:
    def __init__(self, training: Training) -> None:
        self.training = training

    def model(self) -> None: ...
    def train(self) -> None: ...


class Tied(nn.Module):
    """Two layers that share one weight, a half-precision scale, and an integer buffer."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        size = shape[0] * shape[1] * shape[2]
        self.first = nn.Linear(size, size)
        self.second = nn.Linear(size, size)
        self.second.weight = self.first.weight
        self.head = nn.Linear(size, classes)
        self.scale = nn.Parameter(torch.ones(1, dtype=torch.float16))
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        hidden = self.second(torch.relu(self.first(inputs.flatten(1))))
        return self.head(torch.relu(hidden)) * self.scale.float()


def in_a_new_process(code: str, *arguments: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_importing_the_package_imports_no_heavy_library() -> None:
    code = """
import sys
import hypergpu_fl.task
print(*(m for m in ('torch', 'sklearn', 'datasets', 'flwr_datasets') if m in sys.modules))
"""
    assert in_a_new_process(code) == []


def test_prepared_data_goes_under_the_runs(tmp_path: Path) -> None:
    load_task(Training(), System(runs_dir=str(tmp_path / "runs")))
    assert list((tmp_path / "runs" / ".cache").glob("digits-*"))
    load_task(Training())  # HYPERGPU_RUNS is set for every test
    assert list((tmp_path / "runs" / ".cache").glob("digits-*"))


def test_a_users_own_task_takes_the_place_of_the_built_in_one(tmp_path: Path) -> None:
    task = load_task(Training(task=f"{__name__}:OwnTask", data_root=str(tmp_path)))
    assert isinstance(task, OwnTask) and isinstance(task, Task)


def test_an_own_task_that_lacks_methods_is_refused_by_their_names() -> None:
    with pytest.raises(TaskError, match="without unit, identity, arrays, load, examples, evaluate, validate"):
        load_task(Training(task=f"{__name__}:Halfway"))


def test_an_own_task_that_cannot_be_imported_is_refused() -> None:
    with pytest.raises(TaskError, match="training.task = 'no.such:Task' cannot be imported"):
        load_task(Training(task="no.such:Task"))


def test_a_tied_tensor_travels_once_and_every_width_of_float_as_float32(tmp_path: Path) -> None:
    task = load_task(Training(model_architecture=f"{__name__}:Tied", num_nodes=2), cache=tmp_path)
    model = task.model()
    task.train(model, 0, order(tmp_path, steps=2, batch_size=4))
    arrays = task.arrays(model)
    assert "first.weight" in arrays and "second.weight" not in arrays
    assert arrays["scale"].dtype == np.float32 and arrays["calls"] == 2
    other = task.model()
    task.load(other, arrays)
    assert isinstance(other, Tied) and other.second.weight is other.first.weight
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_arrays_are_copies(tmp_path: Path) -> None:
    task = load_task(Training(num_nodes=2), cache=tmp_path)
    model = task.model()
    arrays = task.arrays(model)
    kept = {name: array.copy() for name, array in arrays.items()}
    task.train(model, 0, order(tmp_path, steps=1, batch_size=4))
    assert all(np.array_equal(arrays[name], kept[name]) for name in kept)
    frozen = {name: array.copy() for name, array in arrays.items()}
    for array in frozen.values():
        array.flags.writeable = False
    task.load(model, frozen)
    assert all(np.array_equal(array, kept[name]) for name, array in task.arrays(model).items())


def test_convolutions_give_their_arrays_in_the_usual_layout(tmp_path: Path) -> None:
    task = load_task(Training(model_architecture="simple_cnn", num_nodes=2), cache=tmp_path)
    model = task.model()
    before = task.evaluate(model, device=CPU)  # makes the model channels-last
    fresh = task.model()
    assert all(np.array_equal(array, task.arrays(fresh)[name]) for name, array in task.arrays(model).items())
    assert all(array.flags.c_contiguous for array in task.arrays(model).values())
    assert before.loss == task.evaluate(fresh, device=CPU).loss


def test_arrays_of_another_model_are_refused(tmp_path: Path) -> None:
    task = load_task(Training(num_nodes=2), cache=tmp_path)
    model = task.model()
    arrays = task.arrays(model)
    with pytest.raises(TaskError, match="'3.bias' is on one side only"):
        task.load(model, {name: array for name, array in arrays.items() if name != "3.bias"})
    with pytest.raises(TaskError, match=r"'3.bias' has shape \(11,\)"):
        task.load(model, {**arrays, "3.bias": np.zeros(11, np.float32)})


def test_on_a_real_node_a_folder_is_its_own_whatever_the_nodes_number(tmp_path: Path) -> None:
    for name, colour in (("cat", (0, 0, 0)), ("dog", (255, 255, 255))):
        (tmp_path / "own" / name).mkdir(parents=True)
        for number in range(20):
            Image.new("RGB", (8, 8), colour).save(tmp_path / "own" / name / f"{number}.png")
    training = Training(dataset="folder", data_root=str(tmp_path / "own"))
    task = load_task(training, cache=tmp_path / "cache", simulated=False)
    assert isinstance(task, ImageTask)
    assert task.examples(0) == task.examples(99) == 32
    assert task.class_examples(5) == (16, 16)
    model = task.model()
    assert task.train(model, 7, order(tmp_path, steps=2, batch_size=8)).count == 16
    assert task.evaluate(model, device=CPU, partition=7).accuracy == 1.0


def test_class_counts_of_all_nodes_add_up_to_the_training_set(tmp_path: Path) -> None:
    task = load_task(Training(), cache=tmp_path)
    assert isinstance(task, ImageTask)
    counts = np.array([task.class_examples(node) for node in range(10)])
    assert np.array_equal(counts.sum(axis=0), np.bincount(task.images.train.labels_N))
    assert counts.sum(axis=1).tolist() == [task.examples(node) for node in range(10)]
    on_share = task.evaluate(task.model(), device=CPU, partition=2)
    assert on_share.class_examples == tuple(counts[2])


def test_shares_beyond_the_limit_leave_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = load_task(Training(partitioner="iid"), cache=tmp_path)
    assert isinstance(task, ImageTask)
    monkeypatch.setattr("hypergpu_fl.task.torch_task.RESIDENT_BYTES", 3 * task.examples(0) * 64 * 4)
    model = task.model()
    losses = [task.evaluate(model, device=CPU, partition=node).loss for node in [*range(10), *range(10)]]
    assert len(task._resident) == 3
    assert losses[:10] == losses[10:]


def test_a_set_without_images_is_refused_before_a_model_sees_it(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "own" / "test" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "own" / "test" / name / "0.png")
    training = Training(dataset="folder", data_root=str(tmp_path / "own"))
    task = load_task(training, cache=tmp_path / "cache", simulated=False)
    with pytest.raises(TaskError, match="the validation set of 'folder' holds no image"):
        task.validate(task.model(), device=CPU)
    with pytest.raises(TaskError, match="the share of node 3 of 'folder' holds no image"):
        task.evaluate(task.model(), device=CPU, partition=3)
