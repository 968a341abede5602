"""Models whose ``state_dict`` is of their own making: what travels is what they compute with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hypergpu_fl.errors import TaskError
from hypergpu_fl.task.state import arrays_of, check_model, load_arrays


class Counting(nn.Linear):
    """Keeps a figure beside its weights, as a tensor or as anything else."""

    calls: Any = 3

    def get_extra_state(self) -> Any:
        return torch.tensor(self.calls) if isinstance(self.calls, int) else self.calls

    def set_extra_state(self, state: Any) -> None:
        self.calls = state


def hooked(change: Any) -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    model._register_state_dict_hook(lambda module, state, prefix, metadata: change(state))
    return model


def renamed(state: Any) -> None:
    for name in list(state):
        state[f"module.{name}"] = state.pop(name)


def copied(state: Any) -> None:
    for name, tensor in list(state.items()):
        state[name] = tensor.clone()


def without_bias(state: Any) -> None:
    del state["0.bias"]


@pytest.mark.parametrize("calls", [3, {"calls": 3}, None])
def test_extra_state_does_not_travel(calls: Any) -> None:
    model = Counting(3, 2)
    model.calls = calls
    check_model(model)
    assert list(arrays_of(model)) == ["weight", "bias"]


def test_names_that_the_model_changes_are_the_names_that_travel() -> None:
    model = hooked(renamed)
    check_model(model)
    arrays = arrays_of(model)
    assert all(name.startswith("module.") for name in arrays) and len(arrays) == 7
    load_arrays(model, {name: array + 1 for name, array in arrays.items()})
    assert all(np.array_equal(array + 1, arrays_of(model)[name]) for name, array in arrays.items())


@pytest.mark.parametrize(("change", "name"), [(copied, "0.weight"), (without_bias, "0.bias")])
def test_a_model_whose_learning_would_be_lost_is_refused(change: Any, name: str) -> None:
    with pytest.raises(TaskError, match=rf"has no '{name}', or a copy of it"):
        check_model(hooked(change))
