"""Whatever kind of tensor the data or a batch are of: their examples are counted right, or the kind is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from hypergpu_fl.config import Training
from hypergpu_fl.errors import TaskError
from hypergpu_fl.task import TorchTask
from hypergpu_fl.task.batches import joined, rows_of, subset
from hypergpu_fl.task.check import Checked, check_task

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*(prototype|beta) s:UserWarning"
)  # of torch's nested and sparse tensors

N = 40
INPUTS = torch.randn(N, 4, generator=torch.Generator().manual_seed(0))
TARGETS = INPUTS.sum(1, keepdim=True)
SEQUENCES = [INPUTS[: 2 + n % 3] for n in range(N)]
PAIRS = list(zip(INPUTS, TARGETS, strict=True))


class Sums(TorchTask):
    """The sum of four numbers, whatever kind of tensor they come in."""

    given: Any

    def model(self) -> nn.Module:
        return nn.Linear(4, 1)

    def data(self, partition: int | None) -> Any:
        return self.given

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        inputs, targets = batch
        if inputs.is_nested:
            inputs = torch.stack([sequence.mean(0) for sequence in inputs.unbind()])
        return F.mse_loss(model(inputs.to_dense() if inputs.layout is not torch.strided else inputs), targets)


def check(given: Any, join: Callable[[list[Tensor]], Tensor] | None = None) -> Checked:
    def collate(self: Sums, items: list[Any]) -> Any:
        assert join is not None
        return join([inputs for inputs, _ in items]), torch.stack([targets for _, targets in items])

    parts = {"given": given, **({"collate": collate} if join else {})}
    task = type("Sums", (Sums,), parts)(Training(batch_size=8, num_nodes=2, learning_rate=0.01))
    return check_task(task.training, task)


COLUMNS: dict[str, Any] = {
    "plain": INPUTS,
    "transposed": INPUTS.t().contiguous().t(),
    "every second row": INPUTS.repeat_interleave(2, dim=0)[::2],
    "expanded": torch.ones(1, 4).expand(N, 4),
    "with gradients": INPUTS.clone().requires_grad_() * 1,
    "an array turned round": INPUTS.numpy()[::-1],
    "an array of one row": np.broadcast_to(np.ones((1, 4), np.float32), (N, 4)),
    "an array of another machine": INPUTS.numpy().astype(">f4"),
    "an array that masks nothing": np.ma.masked_array(INPUTS.numpy()),
}


@pytest.mark.parametrize("inputs", COLUMNS.values(), ids=COLUMNS)
def test_rows_are_taken_however_they_lie_in_memory(inputs: Any) -> None:
    checked = check((inputs, TARGETS))
    assert checked.examples == checked.held_out.count + checked.validation.count == N
    assert checked.trial.trained.count == 2 * 8


JOINED: dict[str, Callable[[list[Tensor]], Tensor]] = {
    "nested": torch.nested.nested_tensor,
    "jagged": lambda items: torch.nested.nested_tensor(items, layout=torch.jagged),
    "sparse": lambda items: torch.stack([item.mean(0) for item in items]).to_sparse(),
    "sparse rows": lambda items: torch.stack([item.mean(0) for item in items]).to_sparse_csr(),
}


@pytest.mark.parametrize("join", JOINED.values(), ids=JOINED)
def test_a_batch_of_any_kind_is_as_many_examples_as_it_has_rows(join: Callable[[list[Tensor]], Tensor]) -> None:
    checked = check(list(zip(SEQUENCES, TARGETS, strict=True)), join)
    assert checked.held_out.count + checked.validation.count == N and checked.trial.trained.count == 2 * 8


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "nested": (lambda: torch.nested.nested_tensor(SEQUENCES), "nested"),
    "jagged": (lambda: torch.nested.nested_tensor(SEQUENCES, layout=torch.jagged), "nested"),
    "sparse": (INPUTS.to_sparse, "torch.sparse_coo"),
    "sparse in rows": (lambda: INPUTS.to_sparse(1), "torch.sparse_coo"),
    "sparse rows": (INPUTS.to_sparse_csr, "torch.sparse_csr"),
    "sparse columns": (INPUTS.to_sparse_csc, "torch.sparse_csc"),
    "sparse blocks": (lambda: INPUTS.to_sparse_bsr((2, 2)), "torch.sparse_bsr"),
    "of a library": (INPUTS.to_mkldnn, "torch._mkldnn"),
    "masked": (lambda: np.ma.masked_array(INPUTS.numpy(), mask=INPUTS.numpy() > 0), "values are masked"),
}


@pytest.mark.parametrize("around", [lambda x: (x, TARGETS), lambda x: {"x": x, "y": TARGETS}, lambda x: x])
@pytest.mark.parametrize(("make", "named"), REFUSED.values(), ids=REFUSED)
def test_a_kind_of_which_no_rows_can_be_taken_is_refused_before_anything_is_trained(
    make: Callable[[], Any], named: str, around: Callable[[Any], Any]
) -> None:
    with pytest.raises(TaskError) as caught:
        check(around(make()))
    assert caught.value.cause.startswith("data(0) returned a") and named in caught.value.cause
    assert caught.value.remedy


def test_a_set_of_sparse_tensors_is_refused_likewise() -> None:
    with pytest.raises(TaskError, match="no rows can be taken"):
        check(TensorDataset(INPUTS.to_sparse(), TARGETS))


def test_sparse_examples_are_told_to_be_joined() -> None:
    with pytest.raises(TaskError) as caught:
        check([(inputs.to_sparse(), targets) for inputs, targets in PAIRS])
    assert "write collate(items)" in caught.value.remedy


MASKED = np.ma.masked_array(INPUTS.numpy(), mask=INPUTS.numpy() > 0)
MASKED_ITEMS: dict[str, list[Any]] = {
    "in tuples": [(row, targets) for row, targets in zip(MASKED, TARGETS, strict=True)],
    "in dicts": [{"x": row, "y": targets} for row, targets in zip(MASKED, TARGETS, strict=True)],
    "further inside": [({"x": [row]}, targets) for row, targets in zip(MASKED, TARGETS, strict=True)],
    "alone": list(MASKED),
    "one number": [(inputs, number) for inputs, number in zip(INPUTS, MASKED[:, 0], strict=True)],
}


@pytest.mark.parametrize("items", MASKED_ITEMS.values(), ids=MASKED_ITEMS)
def test_masked_values_in_items_are_refused_too(items: list[Any]) -> None:
    with pytest.raises(TaskError, match=r"an item of data\(\) holds an array of which .* values are masked") as caught:
        check(items)
    assert "write collate(items), which keeps the masks" in caught.value.remedy


@pytest.mark.filterwarnings("ignore:.*quantiz:UserWarning")  # torch says once that it gives them up
@pytest.mark.parametrize("around", [lambda row, y: (row, y), lambda row, y: {"x": [row], "y": y}, lambda row, y: row])
def test_quantised_items_are_refused_since_each_has_its_own_scale(around: Callable[[Tensor, Tensor], Any]) -> None:
    items = [
        around(torch.quantize_per_tensor(row, 0.01 * (1 + n), 0, torch.qint8), y) for n, (row, y) in enumerate(PAIRS)
    ]
    with pytest.raises(TaskError, match=r"an item of data\(\) holds a quantised tensor \(torch.qint8\)") as caught:
        check(items)
    assert ".dequantize()" in caught.value.remedy


def with_other_keys(keys: dict[str, Any]) -> list[dict[str, Any]]:
    items = [{"x": inputs, "y": targets} for inputs, targets in PAIRS]
    items[-1] = {"x": items[-1]["x"], "y": items[-1]["y"], **keys} if keys else {"x": items[-1]["x"]}
    return items


@pytest.mark.parametrize("around", [lambda item: item, lambda item: (item, 1.0), lambda item: {"in": [item]}])
@pytest.mark.parametrize(("keys", "named"), [({"weight": 2.0}, "'weight'"), ({}, "'y'")])
def test_items_of_which_keys_would_be_lost_are_refused_by_their_place(
    keys: dict[str, Any], named: str, around: Callable[[Any], Any]
) -> None:
    items = [around(item) for item in with_other_keys(keys)]
    for data in (items, subset(items, range(1, N))):
        rows = rows_of(data, torch.device("cpu"))
        with pytest.raises(TaskError, match=rf"data\(\)\[{N - 1}\] has other keys .* has {named}\n"):
            [batch.pieces() for batch in rows.batches(8)]


def test_items_whose_keys_come_in_another_order_are_joined_by_name() -> None:
    batch = joined([{"x": 1.0, "y": 2.0}, {"y": 20.0, "x": 10.0}])
    assert batch["x"].tolist() == [1, 10] and batch["y"].tolist() == [2, 20]


def test_items_that_mask_nothing_are_trained_on() -> None:
    unmasked = np.ma.masked_array(INPUTS.numpy(), mask=np.zeros_like(INPUTS, bool))
    assert check(list(zip(unmasked, TARGETS, strict=True))).examples == N


def test_a_collate_of_ones_own_is_given_the_masks() -> None:
    def join(rows: list[Any]) -> Tensor:
        assert any(np.ma.is_masked(row) for row in rows)
        return torch.from_numpy(np.stack([row.filled(0) for row in rows]))

    assert check(MASKED_ITEMS["in tuples"], join).examples == N
