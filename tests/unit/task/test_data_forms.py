"""Data that no batch can be made of are refused with the form to return instead."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from faulty_tasks import CPU, Classes, tried
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hypergpu_fl.config import Training
from hypergpu_fl.errors import TaskError
from hypergpu_fl.task import fresh_model
from hypergpu_fl.task.trial import try_task


class Frame:
    """As pandas' tables are: with a length and an index, which is no example's number."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Any:
        raise KeyError(index)

    def to_numpy(self) -> Any:
        return np.ones((6, 4))


LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
FORMS: dict[str, tuple[Any, str, str]] = {
    "a table": (Frame(), "returned a Frame, which is a table", ".to_numpy('float32')"),
    "a table and labels": ((Frame(), LABELS), "returned a Frame, which is a table", ".to_numpy('float32')"),
    "lists as columns": (
        ([[1.0] * 4] * 6, [0] * 6),
        "a tuple of 2 lists: are they columns",
        "list(zip(inputs, targets))",
    ),
    "pairs in a dict": (
        {"pair": (torch.ones(6, 4), torch.ones(6, 4)), "same": LABELS},
        "a dict of tuple, Tensor, which is neither columns nor examples",
        "none in another",
    ),
    "pairs beside labels": (
        ((torch.ones(6, 4), torch.ones(6, 4)), LABELS),
        "a tuple of tuple, Tensor, which is neither",
        "a list of examples",
    ),
    "objects": (np.array([["a", 1.0]] * 6, dtype=object), "numpy.object_", "one type of number"),
    "doubles": ((np.ones((6, 4)), LABELS.numpy()), "same dtype", ".astype('float32')"),
    "labels as floats": ((torch.ones(6, 4), LABELS.float()), "Float", "labels of classes int64"),
    "labels of bytes": ((torch.ones(6, 4), LABELS.to(torch.int32)), "Int", "labels of classes int64"),
    "unlike lengths": ([(torch.ones(4 + n % 2), 0) for n in range(6)], "equal size", "write collate(items)"),
    "nested lists": ([{"inputs": [1] * (4 + n % 2)} for n in range(6)], "of equal size", "write collate(items)"),
    "an empty share": ([], "data(0) returned nothing", "at least one example"),
}


@pytest.mark.parametrize("form", FORMS)
def test_data_in_a_form_that_no_batch_is_made_of_have_their_remedy(form: str) -> None:
    data, cause, remedy = FORMS[form]
    error = tried(lambda: nn.Linear(4, 3), data=lambda self, partition: data)
    assert cause in error.cause and remedy in error.remedy


def test_a_file_that_is_not_there_is_told_where_nodes_look() -> None:
    error = tried(lambda: nn.Linear(4, 3), data=lambda self, partition: np.load("data/mine.npy"))
    assert "data/mine.npy" in error.cause and "training.data_root" in error.remedy


def test_a_data_loader_is_told_that_batches_are_made_here() -> None:
    class Loads(Classes):
        make = staticmethod(lambda: nn.Linear(4, 3))

        def data(self, partition: int | None) -> Any:
            return DataLoader(TensorDataset(*super().data(partition)), batch_size=2)

    with pytest.raises(TaskError, match="returned a DataLoader") as refused:
        try_task(task := Loads(Training()), fresh_model(task, 0), 0, device=CPU, batch_size=6)
    assert "return its dataset" in refused.value.remedy
