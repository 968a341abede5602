"""What an update brought: it adds up, and agrees with the Shapley value where that is known; what is public is out."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypergpu_fl.ledger.aumann_shapley import NODES, credited, path_gradients, value
from hypergpu_fl.ledger.public_movements import Span

P = 12


class Quartic:
    """A loss whose gradient is known: ``sum(a x^4 + b x^2) + x Q x``, on which three nodes are exact."""

    def __init__(self, seed: int, *, quartic: float = 1.0) -> None:
        rng = np.random.default_rng(seed)
        self._a = quartic * rng.random(P)
        half = rng.standard_normal((P, P)) / P
        self._q = half @ half.T

    def loss(self, x_P: np.ndarray) -> float:
        x = np.asarray(x_P, dtype=np.float64)
        return float(self._a @ x**4 + x @ self._q @ x)

    def gradient(self, x_P: np.ndarray) -> np.ndarray:
        x = np.asarray(x_P, dtype=np.float64)
        return 4 * self._a * x**3 + 2 * self._q @ x


def values(loss: Quartic, base_P: np.ndarray, parts_NP: np.ndarray) -> list[float]:
    gradients = path_gradients(loss.gradient, base_P, parts_NP.sum(axis=0))
    return [value([-float(gradient_P @ part) for gradient_P in gradients]) for part in parts_NP]


def slopes_of(
    movements: list[np.ndarray], gradient_P: np.ndarray, value_S: np.ndarray, *, at: Any = None, **options: Any
) -> tuple[float, float]:
    slopes = Span(movements, [gradient_P], **{k: v for k, v in options.items() if k == "still"}).slopes(
        at, value_S, **{k: v for k, v in options.items() if k == "later"}
    )
    return float(slopes.whole[0]), float(slopes.own[0])


def updates(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    base_P = rng.standard_normal(P).astype(np.float32)
    return base_P, (0.2 * rng.standard_normal((count, P))).astype(np.float32)


@given(st.integers(0, 10**6), st.integers(1, 8))
def test_the_values_sum_to_the_rounds_true_improvement(seed: int, count: int) -> None:
    loss, (base_P, parts_NP) = Quartic(seed), updates(seed, count)
    improvement = loss.loss(base_P) - loss.loss(base_P.astype(np.float64) + parts_NP.sum(axis=0))
    assert sum(values(loss, base_P, parts_NP)) == pytest.approx(improvement, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_on_a_quadratic_loss_they_are_the_exact_shapley_values(seed: int) -> None:
    loss, (base_P, parts_NP) = Quartic(seed, quartic=0.0), updates(seed, 5)
    exact, orders = np.zeros(5), list(permutations(range(5)))
    for order in orders:
        at_P = base_P.astype(np.float64)
        for i in order:
            exact[i] += loss.loss(at_P) - loss.loss(at_P + parts_NP[i])
            at_P = at_P + parts_NP[i]
    assert np.allclose(values(loss, base_P, parts_NP), exact / len(orders), atol=1e-5)


@given(st.integers(0, 10**6), st.lists(st.floats(-3, 3), min_size=3, max_size=3))
def test_an_update_made_of_the_models_movements_is_worth_nothing(seed: int, shares: list[float]) -> None:
    rng = np.random.default_rng(seed)
    movements = list(rng.standard_normal((3, P)).astype(np.float32) * np.float32([[1e-3], [1], [1e3]]))
    gradient_P = rng.standard_normal(P)
    update_P = sum(np.float32(s) * m for s, m in zip(shares, movements, strict=True))
    whole, own = slopes_of(movements, gradient_P, update_P)
    lengths = float(np.linalg.norm(gradient_P) * np.linalg.norm(update_P))  # single precision is relative to these
    assert whole == pytest.approx(float(gradient_P @ update_P.astype(np.float64)), abs=1e-6 * (1 + lengths))
    assert abs(own) <= 2e-6 * (1 + lengths)


@given(st.integers(0, 10**6))
def test_leaving_values_of_a_movement_out_does_not_make_it_ones_own(seed: int) -> None:
    rng = np.random.default_rng(seed)
    movement_P, gradient_P = rng.standard_normal(P).astype(np.float32), rng.standard_normal(P)
    kept = np.sort(rng.permutation(P)[:5]).astype(np.uint32)
    masked_P = np.zeros(P, dtype=np.float32)
    masked_P[kept] = movement_P[kept]
    assert abs(slopes_of([movement_P], gradient_P, movement_P[kept], at=kept)[1]) < 1e-5
    assert abs(slopes_of([movement_P], gradient_P, masked_P)[1]) < 1e-5


def test_what_is_left_of_an_update_is_what_is_orthogonal_to_the_movements() -> None:
    rng = np.random.default_rng(3)
    movements, gradient_P = rng.standard_normal((2, P)).astype(np.float32), rng.standard_normal(P)
    update_P = rng.standard_normal(P).astype(np.float32)
    basis, _ = np.linalg.qr(movements.T.astype(np.float64))
    rest_P = update_P - basis @ (basis.T @ update_P)
    assert slopes_of(list(movements), gradient_P, update_P)[1] == pytest.approx(float(gradient_P @ rest_P), rel=1e-5)


def test_a_slow_nodes_update_keeps_what_others_found_since_but_a_later_movement_itself_is_nobodys() -> None:
    rng = np.random.default_rng(5)
    later_P, earlier_P, own_P, gradient_P = rng.standard_normal((4, 4000))
    movements = [later_P.astype(np.float32), earlier_P.astype(np.float32)]
    honest_P = (0.5 * later_P + own_P).astype(np.float32)
    rest_P = honest_P - earlier_P * (earlier_P @ honest_P) / (earlier_P @ earlier_P)
    own = slopes_of(movements, gradient_P, honest_P, later=1)[1]
    assert own == pytest.approx(float(gradient_P @ rest_P), rel=1e-3, abs=1e-2)
    copied_P = (later_P + 0.2 * own_P).astype(np.float32)
    assert slopes_of(movements, gradient_P, copied_P, later=1) == slopes_of(movements, gradient_P, copied_P)


def test_statistics_are_no_movement() -> None:
    movement_P = np.arange(P, dtype=np.float32)
    gradient_P = np.ones(P)
    update_P = np.where(np.arange(P) < 4, 100, movement_P).astype(np.float32)
    assert abs(slopes_of([movement_P], gradient_P, update_P, still=((0, 4),))[1]) < 1e-4


@given(st.floats(-2, 2), st.floats(-4, 4), st.floats(-4, 4))
def test_who_helped_at_first_is_not_charged_for_too_much_weight_and_who_harmed_all_along_is(
    start: float, slope: float, bend: float
) -> None:
    def gain(t: float) -> float:
        return start + slope * t + bend * t * t

    gains = [gain(node) for node in NODES]
    brought = [start * s + slope * s**2 / 2 + bend * s**3 / 3 for s in np.linspace(0, 1, 2001)]
    assert value(gains) == pytest.approx(brought[-1], abs=1e-6)
    expected = brought[-1] if brought[-1] >= 0 or max(brought) <= 1e-4 else max(brought)
    told = max(brought) == 0 or (max(brought) > 1e-3 and gains[0] > 1e-3)
    if told and abs(brought[-1]) > 1e-3:  # elsewhere it is a matter of rounding
        assert credited(gains, [0.0] * 3) == pytest.approx(expected, abs=1e-4)


def test_what_a_random_change_brings_is_nothing_and_work_is_more_than_that() -> None:
    rng, size = np.random.default_rng(1), 5000
    gradient_P = rng.standard_normal(size)
    scores = []
    for kept in (None, np.sort(rng.permutation(size)[:400]).astype(np.uint32)):
        for _ in range(60):
            noise = rng.standard_normal(size if kept is None else kept.size).astype(np.float32)
            slopes = Span([], [gradient_P] * 3).slopes(kept, noise)
            scores.append(credited(slopes.own.tolist(), slopes.chance.tolist()))
    assert np.mean(np.asarray(scores) != 0) < 0.12
    work_P = (rng.standard_normal(size) + 0.2 * gradient_P).astype(np.float32)
    slopes = Span([], [gradient_P] * 3).slopes(None, work_P)
    assert credited(slopes.own.tolist(), slopes.chance.tolist()) == pytest.approx(value(slopes.whole.tolist()))
