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
from hypergpu_fl.task import TorchTask, fresh_model
from hypergpu_fl.task.batch_form import examples_in
from hypergpu_fl.task.loop import MicroBatch


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
    (kept,) = tmp_path.iterdir()
    kept.write_text("")  # as a kill in the midst of writing leaves it
    trained(Small(TRAINING), tmp_path)
    assert kept.read_text() == "2"
    again.holds = 0
    with pytest.raises(TaskError, match="does not hold one example"):
        trained(again, tmp_path)


@settings(max_examples=20, deadline=None)
@given(holds=st.integers(1, 9), batch=st.integers(1, 12), per_sample=st.booleans())
def test_micro_batches_give_the_gradient_of_the_whole_batch(holds: int, batch: int, per_sample: bool) -> None:
    class Weighted(Small):
        """An example of a high target counts for more."""

        unit = "tokens"

        def count(self, batch: Any) -> int:
            return int((10 + 90 * (batch[1] > 0)).sum())

        def loss(self, model: nn.Module, batch: Any) -> Tensor:
            if len(batch[0]) > self.holds:
                raise torch.OutOfMemoryError("out of memory")
            losses = F.mse_loss(model(batch[0]), batch[1], reduction="none").flatten()
            tokens = (10 + 90 * (batch[1] > 0)).flatten()
            return losses if per_sample else (tokens * losses).sum() / tokens.sum()

    task, plain = Weighted(TRAINING), Weighted(TRAINING)
    task.holds, plain.holds = holds, 48
    models = [fresh_model(each, 0) for each in (task, plain)]
    with tempfile.TemporaryDirectory() as folder:
        results = [
            each.train(model, 0, order(Path(folder), batch_size=batch))
            for each, model in zip((plain, task), reversed(models), strict=True)
        ][::-1]
    assert torch.allclose(weights(models[0]), weights(models[1]), atol=1e-5)
    assert results[0].count == results[1].count
    assert results[0].loss == pytest.approx(results[1].loss, rel=1e-4)
    task._micro.size, plain._micro.size = 0, 0
    found, whole = (each.evaluate(models[0], device=CPU) for each in (task, plain))
    assert found.count == whole.count
    assert found.loss == pytest.approx(whole.loss, rel=1e-6), "losses of examples weigh alike, cut or not"


def test_an_error_without_a_text_is_told_by_its_kind() -> None:
    with pytest.raises(TaskError, match="does not hold one example: OutOfMemoryError"):
        MicroBatch().halve(1, torch.OutOfMemoryError())


def test_evaluation_goes_on_with_less_memory_too() -> None:
    task, plain = Small(TRAINING), Plane(TRAINING)
    model = fresh_model(task, 0)
    found, whole = (each.evaluate(model, device=CPU) for each in (task, plain))
    assert found.count == whole.count and found.loss == pytest.approx(whole.loss, rel=1e-5)
    assert found.metrics == {"r2": pytest.approx(whole.metrics["r2"], rel=1e-4)}


def test_texts_beside_the_tensors_stay_with_their_examples(tmp_path: Path) -> None:
    class Named(Small):
        metrics = TorchTask.metrics
        form = staticmethod(lambda columns: [(str(x.sum().item()), x, y) for x, y in zip(*columns, strict=True)])

        def loss(self, model: nn.Module, batch: Any) -> Tensor:
            names, inputs, targets = batch
            assert list(names) == [str(x.sum().item()) for x in inputs]
            return super().loss(model, [inputs, targets])

    assert torch.allclose(trained(Named(TRAINING), tmp_path), trained(Plane(TRAINING), tmp_path / "other"), atol=1e-6)


@given(st.integers(1, 40))
def test_a_batch_has_as_many_examples_as_its_tensors_have_rows(size: int) -> None:
    names, lone, inputs = ["text"] * size, torch.tensor(3.0), torch.zeros(size, 2)
    for batch in (inputs, [names, inputs], {"name": names, "x": inputs}, (lone, [names, {"x": inputs}])):
        assert examples_in(batch) == size


@pytest.mark.parametrize("holds", [1, 3, 8])
def test_images_of_different_sizes_in_lists_are_counted_and_cut_by_image(tmp_path: Path, holds: int) -> None:
    limit = holds

    class Detection(TorchTask):
        """Tells a picture's size, from three channels and as many boxes a picture as a seed gives."""

        def model(self) -> nn.Module:
            return nn.Linear(3, 1)

        def data(self, partition: int | None) -> Any:
            generator = torch.Generator().manual_seed(partition or 7)
            sizes = torch.randint(4, 9, (25, 2), generator=generator).tolist()
            return [
                (torch.rand((3, *size), generator=generator), {"boxes": torch.rand((size[0] % 4, 4)), "id": number})
                for number, size in enumerate(sizes)
            ]

        def collate(self, items: list[Any]) -> Any:
            return tuple(zip(*items, strict=True))

        def loss(self, model: nn.Module, batch: Any) -> Tensor:
            images, targets = batch
            assert len(images) == len(targets) and all(len(image) == 3 for image in images)
            if len(images) > limit:
                raise torch.OutOfMemoryError("out of memory")
            found = torch.cat([model(image.mean((1, 2))) for image in images])
            return F.mse_loss(found, torch.tensor([float(target["id"]) for target in targets]))

    task = Detection(TRAINING)
    model = fresh_model(task, 0)
    result = task.train(model, 0, order(tmp_path, steps=5, batch_size=8))
    assert result.count == 5 * 8
    found = task.evaluate(model, device=CPU, partition=1)
    assert found.count == 25
    limit = 100
    plain = Detection(TRAINING)
    assert found.loss == pytest.approx(plain.evaluate(model, device=CPU, partition=1).loss, rel=1e-4)
    assert torch.allclose(weights(model), trained(plain, tmp_path / "other"), atol=1e-5)


def picture(height: int = 8) -> Tensor:
    return torch.zeros(3, height, 8)


@pytest.mark.parametrize(
    ("batch", "items", "examples"),
    [
        ([picture() for _ in range(4)], 4, 4),
        ({"pictures": [picture() for _ in range(4)]}, 4, 4),
        ({"pair": [torch.zeros(8, 2), torch.zeros(8, 2)]}, 8, 8),
        ([(picture(), torch.tensor(1)) for _ in range(5)], 5, 5),
        (([picture(4), picture(5)], [{"boxes": torch.zeros(1, 4)}, {"boxes": torch.zeros(0, 4)}]), None, 2),
        ((torch.zeros(2, 40, dtype=torch.long), torch.zeros(17, 5)), 17, 17),  # a graph's edges, then its nodes
        ([torch.zeros(7, 3, 8, 8), torch.zeros(7)], 8, 7),  # collate left a broken item out
        ([picture() for _ in range(3)], 3, 3),
    ],
)
def test_a_batch_is_as_many_examples_as_it_was_made_of(batch: Any, items: int | None, examples: int) -> None:
    assert examples_in(batch, items) == examples


@pytest.mark.parametrize(
    ("batch", "items"),
    [
        ((torch.zeros(2, 40), torch.zeros(17, 5)), None),
        ((torch.zeros(2, 40), torch.zeros(431, 5)), 17),  # a packed graph: no part tells its number
        ({"pictures": [picture()] * 4}, 5),
    ],
)
def test_a_batch_that_may_be_read_in_two_ways_asks_for_count(batch: Any, items: int | None) -> None:
    with pytest.raises(TaskError) as caught:
        examples_in(batch, items)
    assert "write count(batch)" in caught.value.remedy


def test_a_micro_batch_that_holds_nothing_moves_nothing(tmp_path: Path) -> None:
    class Padded(Small):
        """Examples of a low target are padding, whose mean loss is that of nothing."""

        unit = "tokens"

        def count(self, batch: Any) -> int:
            return int((batch[1] > 0).sum())

        def loss(self, model: nn.Module, batch: Any) -> Tensor:
            if len(batch[0]) > self.holds:
                raise torch.OutOfMemoryError("out of memory")
            kept = batch[1] > 0
            return F.mse_loss(model(batch[0])[kept], batch[1][kept])

    short, plain = Padded(TRAINING), Padded(TRAINING)
    short.holds, plain.holds = 1, 8
    assert torch.allclose(trained(short, tmp_path), trained(plain, tmp_path / "other"), atol=1e-6)
