"""What comes with a model, data and a loss: training, evaluation, seeds and state."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from plane_task import CPU, TRAINING, Plane, order, points, trained, weights
from sklearn.metrics import r2_score
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from hypergpu_fl.config import Training
from hypergpu_fl.errors import TaskError
from hypergpu_fl.task import Task, TrainContext, fresh_model, full_identity
from hypergpu_fl.task.loop import SampleOrder
from hypergpu_fl.task.trial import try_task


class Pairs(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self, columns: tuple[Tensor, Tensor]) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.columns[0][index], self.columns[1][index]


def test_three_methods_make_a_task() -> None:
    task = Plane(TRAINING)
    assert isinstance(task, Task)
    assert (task.unit, task.examples(0)) == ("examples", 30)


def test_training_is_the_plain_loop_over_the_order_of_seed_and_partition(tmp_path: Path) -> None:
    task = Plane(TRAINING)
    plain = fresh_model(task, 0)
    inputs, targets = points(30, 0)
    optimizer, drawn = torch.optim.SGD(plain.parameters(), lr=0.05), SampleOrder(30, np.random.default_rng((3, 0)))
    losses = []
    for _ in range(5):
        chosen = torch.from_numpy(drawn.take(8))
        optimizer.zero_grad()
        loss = F.mse_loss(plain(inputs[chosen]), targets[chosen])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model = fresh_model(task, 0)
    result = task.train(model, 0, order(tmp_path))
    assert torch.allclose(weights(model), weights(plain), atol=1e-6)
    assert (result.count, result.steps) == (40, 5)
    assert result.loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert result.squared_loss == pytest.approx(np.mean(np.square(losses)), rel=1e-5)


@pytest.mark.parametrize(
    "form",
    [
        lambda columns: {"x": columns[0], "y": columns[1]},
        lambda columns: tuple(column.numpy() for column in columns),
        lambda columns: TensorDataset(*columns),
        lambda columns: Pairs(columns),
        lambda columns: list(zip(*columns, strict=True)),
        lambda columns: [{"x": x.numpy(), "y": y.numpy()} for x, y in zip(*columns, strict=True)],
    ],
    ids=["dict", "arrays", "TensorDataset", "Dataset", "list", "list of dicts"],
)
def test_every_form_of_data_trains_and_evaluates_alike(form: Callable[[Any], Any], tmp_path: Path) -> None:
    task = type("Other", (Plane,), {"form": staticmethod(form)})(TRAINING)
    assert torch.allclose(trained(task, tmp_path), trained(Plane(TRAINING), tmp_path), atol=1e-6)
    model = fresh_model(task, 0)
    plain = Plane(TRAINING).evaluate(model, device=CPU)
    found = task.evaluate(model, device=CPU)
    assert found.count == plain.count == 36
    assert found.loss == pytest.approx(plain.loss, rel=1e-6)
    assert found.metrics["r2"] == pytest.approx(plain.metrics["r2"], rel=1e-5)


@pytest.mark.parametrize("size", [1, 7, 36, 1000])
def test_means_do_not_depend_on_how_the_test_set_is_cut(size: int) -> None:
    task = Plane(TRAINING)
    task.evaluation_batch = size
    model = fresh_model(task, 0)
    result = task.evaluate(model, device=CPU)
    held = np.random.default_rng(0).permutation(40)
    inputs, targets = (column[np.sort(held[4:])] for column in points(40, 99))
    with torch.no_grad():
        outputs = model(inputs)
    assert result.loss == pytest.approx(float(F.mse_loss(outputs, targets)), rel=1e-5)
    assert result.metrics == {"r2": pytest.approx(r2_score(targets, outputs), rel=1e-4)}
    assert result.accuracy is None


def test_test_and_validation_data_share_no_example_and_leave_none_out() -> None:
    class Numbers(Plane):
        def data(self, partition: int | None) -> Any:
            return torch.arange(40.0)[:, None]

        def loss(self, model: nn.Module, batch: Any) -> Tensor:
            seen.extend(batch.flatten().tolist())
            return model(batch.expand(-1, 3)).mean()

        def metrics(self, model: nn.Module, batch: Any) -> Mapping[str, Tensor]:
            return {}

        def summary(self, means: Mapping[str, float]) -> Mapping[str, float]:
            return {}

    parts = []
    for measure in ("evaluate", "validate"):
        seen: list[float] = []
        task = Numbers(TRAINING)
        getattr(task, measure)(fresh_model(task, 0), device=CPU)
        parts.append(seen)
    test, validation = parts
    assert (len(test), len(validation)) == (36, 4)
    assert sorted(test + validation) == list(range(40))


def test_validation_data_of_ones_own_leave_the_test_data_whole() -> None:
    class Own(Plane):
        def validation(self) -> Any:
            return points(12, 5)

    task = Own(TRAINING)
    model = fresh_model(task, 0)
    assert (task.evaluate(model, device=CPU).count, task.validate(model, device=CPU).count) == (40, 12)


def test_gradients_are_clipped(tmp_path: Path) -> None:
    task = Plane(TRAINING.model_copy(update={"learning_rate": 1.0}))
    task.clip_norm = 0.01
    moved = trained(task, tmp_path, steps=1) - weights(fresh_model(task, 0))
    assert float(moved.norm()) == pytest.approx(0.01, rel=1e-4)


def test_any_optimiser_of_torch_will_do_and_the_order_reaches_it(tmp_path: Path) -> None:
    seen: list[TrainContext] = []

    class Own(Plane):
        def optimizer(self, parameters: list[nn.Parameter], context: TrainContext) -> Callable[[], object]:
            seen.append(context)
            return torch.optim.AdamW(parameters, lr=0.05, weight_decay=0.0).step

    configured = Plane(TRAINING.model_copy(update={"optimizer": "adamw"}))
    assert torch.allclose(trained(Own(TRAINING), tmp_path), trained(configured, tmp_path), atol=1e-6)
    assert (seen[0].folder, seen[0].steps, seen[0].progress) == (tmp_path, 5, 0.0)


@pytest.mark.parametrize(
    "draw",
    [lambda: torch.randn(3), lambda: np.random.randn(3), lambda: [random.random() for _ in range(3)]],
    ids=["torch", "numpy", "random"],
)
def test_the_first_weights_are_the_same_by_whichever_generator_they_are_drawn(draw: Callable[[], Any]) -> None:
    class Drawn(Plane):
        def model(self) -> nn.Module:
            model = nn.Linear(3, 1)
            model.weight.data = torch.as_tensor(np.asarray(draw()), dtype=torch.float32)[None]
            return model

    task = Drawn(TRAINING)
    first = weights(fresh_model(task, 7))
    torch.rand(3), np.random.rand(3), random.random()
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    assert torch.equal(weights(fresh_model(task, 7)), first)
    assert not torch.equal(weights(fresh_model(task, 8)), first)
    assert torch.equal(torch.get_rng_state(), states[0]) and np.array_equal(np.random.get_state()[1], states[1])
    assert random.getstate() == states[2]


DRAWN_ELSEWHERE = """
import hashlib, random, sys
import numpy as np, torch
from torch import nn
from hypergpu_fl.config import Training
from hypergpu_fl.task import TorchTask, fresh_model

class Drawn(TorchTask):
    def model(self):
        model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2), nn.Linear(2, 1))
        model[1].weight.data = torch.as_tensor(np.random.randn(2, 2), dtype=torch.float32)
        model[2].weight.data = torch.tensor([[random.random(), random.gauss(0, 1)]])
        return model

torch.rand(int(sys.argv[1])), np.random.rand(int(sys.argv[1])), random.random()
task = Drawn(Training())
print(hashlib.sha256(b"".join(a.tobytes() for a in task.arrays(fresh_model(task, 7)).values())).hexdigest())
"""


def test_two_processes_draw_the_same_weights_whatever_was_drawn_before() -> None:
    hashes = [
        subprocess.run(
            [sys.executable, "-c", DRAWN_ELSEWHERE, str(drawn)],
            env={**os.environ, "PYTHONHASHSEED": str(drawn)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for drawn in (1, 2)
    ]
    assert hashes[0] == hashes[1] and len(hashes[0].strip()) == 64


def test_noise_in_the_loss_is_a_function_of_the_seed(tmp_path: Path) -> None:
    class Noisy(Plane):
        def loss(self, model: nn.Module, batch: Any) -> Tensor:
            noise = random.random() + float(np.random.rand()) + torch.rand(())
            return super().loss(model, batch) * noise

    task = Noisy(TRAINING)
    first = trained(task, tmp_path)
    random.random(), np.random.rand(), torch.rand(1)
    assert torch.equal(trained(task, tmp_path), first)
    assert not torch.equal(trained(task, tmp_path, seed=4), first)


class Adapted(Plane):
    """A frozen body and a trainable head, as in fine-tuning."""

    body = 1.0

    def model(self) -> nn.Module:
        model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
        nn.init.constant_(model[0].weight, self.body)
        model[0].requires_grad_(False)
        return model


def test_only_trainable_parameters_and_buffers_travel(tmp_path: Path) -> None:
    task = Adapted(TRAINING)
    model, other = fresh_model(task, 0), fresh_model(task, 1)
    task.train(model, 0, order(tmp_path))
    arrays = task.arrays(model)
    assert list(arrays) == [
        *("1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked", "2.weight", "2.bias"),
    ]
    task.load(other, arrays)
    assert all(np.array_equal(array, arrays[name]) for name, array in task.arrays(other).items())


def test_frozen_weights_are_compared_by_hash() -> None:
    class Another(Adapted):
        body = 1.0000001

    ours, theirs = (full_identity(task, fresh_model(task, 0)) for task in (Adapted(TRAINING), Another(TRAINING)))
    assert ours["frozen weights"] != theirs["frozen weights"] and ours["model"] == theirs["model"]
    assert full_identity(Adapted(TRAINING), fresh_model(Adapted(TRAINING), 0)) == ours
    assert "frozen weights" not in full_identity(Plane(TRAINING), fresh_model(Plane(TRAINING), 0))


def test_a_constructor_of_ones_own_need_not_call_ours(tmp_path: Path) -> None:
    class Own(Plane):
        def __init__(self, training: Training) -> None:
            self.width = training.options.get("width", 3)

    assert torch.equal(trained(Own(TRAINING), tmp_path), trained(Plane(TRAINING), tmp_path))


def test_a_trial_gives_the_model_back_as_it_was() -> None:
    task = Adapted(TRAINING)
    model = fresh_model(task, 0)
    before = task.arrays(model)
    assert try_task(task, model, 0, device=CPU, batch_size=8).trained.count == 8
    assert all(np.array_equal(array, before[name]) for name, array in task.arrays(model).items())


class Stream(IterableDataset[Tensor]):
    def __iter__(self) -> Any:
        return iter(points(30, 0)[0])


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (torch.zeros(0, 3), "data(0) returned nothing"),
        ([], "data(0) returned nothing"),
        (Stream(), "a Stream, which has no length or no order"),
        (None, "a NoneType, which has no length"),
        (iter([1, 2]), "a list_iterator, which has no length"),
        ((torch.zeros(3, 3), torch.zeros(4, 1)), "columns of unequal length: 3, 4"),
    ],
)
def test_data_that_cannot_be_read_say_what_form_is_taken(data: Any, cause: str, tmp_path: Path) -> None:
    class Odd(Plane):
        def data(self, partition: int | None) -> Any:
            return data

    task = Odd(TRAINING)
    with pytest.raises(TaskError) as caught:
        task.train(fresh_model(task, 0), 0, order(tmp_path))
    assert cause in caught.value.cause and caught.value.remedy


@pytest.mark.parametrize("method", ["data(1)", "data(None)", "validation()"])
@pytest.mark.parametrize("odd", [points(0, 0), 1.5], ids=["no example", "of another form"])
def test_of_data_that_cannot_be_read_the_call_that_returned_them_is_named(
    method: str, odd: Any, tmp_path: Path
) -> None:
    class Odd(Plane):
        def data(self, partition: int | None) -> Any:
            return odd if method == f"data({partition})" else points(30, 0)

        def validation(self) -> Any:
            return odd if method == "validation()" else points(3, 1)

    task = Odd(TRAINING)
    model = fresh_model(task, 0)
    with pytest.raises(TaskError, match=f"^{re.escape(method)} returned"):
        task.train(model, 1, order(tmp_path))
        task.evaluate(model, device=CPU)
        task.validate(model, device=CPU)


@pytest.mark.parametrize("pairs", [Pairs(points(0, 0)), None, [][0:].pop], ids=["no example", "nothing", "an error"])
def test_where_data_are_missing_the_folder_that_is_not_there_is_named(pairs: Any, tmp_path: Path) -> None:
    class Mistyped(Plane):
        def data(self, partition: int | None) -> Any:
            return pairs() if callable(pairs) else pairs

    (tmp_path / "texts").mkdir()
    task = Mistyped(TRAINING.model_copy(update={"data_root": str(tmp_path / "txts")}))
    model = fresh_model(task, 0)
    for use in (lambda: task.train(model, 1, order(tmp_path)), lambda: task.validate(model, device=CPU)):
        with pytest.raises(TaskError, match=r"training.data_root = '.*txts' does not exist\n") as caught:
            use()
        assert caught.value.remedy == f"did you mean {str(tmp_path / 'texts')!r}?"


class Negative(Pairs):
    def __len__(self) -> int:
        return -1


def test_a_dataset_without_a_length_names_the_folder_that_is_not_there(tmp_path: Path) -> None:
    class Windows(Plane):
        def data(self, partition: int | None) -> Any:
            return Negative(points(3, 0))

    task = Windows(TRAINING.model_copy(update={"data_root": str(tmp_path / "absent")}))
    for size in (lambda: task.examples(0), lambda: task.validate(fresh_model(task, 0), device=CPU)):
        with pytest.raises(TaskError, match=r"ValueError.*; training.data_root = '.*absent' does not exist\n"):
            size()


def test_too_small_a_held_out_set_is_refused() -> None:
    class One(Plane):
        def data(self, partition: int | None) -> Any:
            return points(1, 0)

    task = One(TRAINING)
    with pytest.raises(TaskError, match="held-out data hold 1 example,"):
        task.validate(fresh_model(task, 0), device=CPU)


def test_a_node_reports_the_metrics_of_its_own_share(tmp_path: Path) -> None:
    task = Plane(TRAINING)
    model = fresh_model(task, 0)
    result = task.train(model, 0, order(tmp_path, steps=60))
    inputs, targets = points(30, 0)
    with torch.no_grad():
        assert result.metrics == {"r2": pytest.approx(r2_score(targets, model(inputs)), rel=1e-4)}
