"""A task may count and measure in whatever numbers it likes: what it returns are Python's own."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch

from hypergpu_fl.task import EvalResult, TrainResult
from hypergpu_fl.task.training import ImageResult


@pytest.mark.parametrize(
    "number", [np.float32, np.float64, np.int64, torch.tensor, lambda value: torch.tensor([value])]
)
def test_results_hold_pythons_numbers_whatever_the_task_gives(number: Any) -> None:
    results = (
        TrainResult(number(64), number(2), number(3), number(9), number(1), {"mae": number(5)}),
        EvalResult(number(64), number(3), {"mae": number(5)}),
        ImageResult(number(64), number(3), {"accuracy": number(1)}),
    )
    for result in results:
        held = asdict(result)
        assert json.loads(json.dumps(held)) == held | {k: list(v) for k, v in held.items() if isinstance(v, tuple)}
        assert (type(result.count), result.count, type(result.loss), result.loss) == (int, 64, float, 3.0)


@pytest.mark.parametrize("odd", [None, "many", torch.zeros(3), 1 + 2j, {}])
def test_what_is_no_number_is_refused_where_it_is_returned(odd: Any) -> None:
    with pytest.raises((TypeError, ValueError, RuntimeError)):
        EvalResult(10, odd)
    with pytest.raises((TypeError, ValueError, RuntimeError)):
        EvalResult(10, 1.0, {"mae": odd})
