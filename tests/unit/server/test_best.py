"""Which round's model was the best."""

from __future__ import annotations

from typing import Any

import pytest

from hypergpu_fl.config import Training
from hypergpu_fl.server.best import Aim, aim_of, best_round


def history(*figures: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"round": n, **entry} for n, entry in enumerate(figures, start=1)]


@pytest.mark.parametrize(
    ("figures", "aim", "best"),
    [
        ([{"accuracy": 0.5, "loss": 1.0}, {"accuracy": 0.7, "loss": 2.0}, {"accuracy": 0.6, "loss": 0.5}], Aim(), 2),
        ([{"accuracy": None, "loss": 1.0}, {"accuracy": None, "loss": 0.5}, {"accuracy": None, "loss": 0.7}], Aim(), 2),
        ([{"loss": 1.0}, {"loss": float("nan")}, {"loss": 1.0}], Aim(), 1),
        ([{"accuracy": 1.0}, {"accuracy": 1.0, "loss": 1.4}, {"accuracy": 1.0, "loss": 0.1}], Aim(), 3),
        ([{"loss": 0.5, "metrics": {"r2": 0.3}}, {"loss": 0.4, "metrics": {"r2": 0.3}}], Aim("r2"), 2),
        ([{"accuracy": 0.9, "loss": 1.0}, {"accuracy": 0.8, "loss": 0.5}], Aim("loss", more=False), 2),
        ([{"loss": 1.0, "metrics": {"r2": 0.1}}, {"loss": 2.0, "metrics": {"r2": 0.3}}], Aim("r2"), 2),
        ([{"accuracy": None, "loss": float("inf")}, {"accuracy": None, "loss": None}], Aim(), 2),
        ([], Aim(), None),
    ],
)
def test_the_best_round_is_by_target_else_accuracy_else_loss(
    figures: list[dict[str, Any]], aim: Aim, best: int | None
) -> None:
    assert best_round(history(*figures), aim) == best


@pytest.mark.parametrize(
    ("target", "aim"),
    [
        ("loss <= 1.88", Aim("loss", more=False)),
        ("accuracy >= 0.9", Aim("accuracy")),
        ("r2>=0.4", Aim("r2")),
        ("", Aim()),
    ],
)
def test_a_target_says_what_is_aimed_at(target: str, aim: Aim) -> None:
    assert aim_of(Training(target=target)) == aim
    assert aim_of(Training(target_accuracy=0.5)) == Aim("accuracy")
