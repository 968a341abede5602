"""What an update brought: it adds up, and agrees with the Shapley value where that is known; what is public is out."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypergpu_fl.ledger.aumann_shapley import path_gradient
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


def updates(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    base_P = rng.standard_normal(P).astype(np.float32)
    return base_P, (0.2 * rng.standard_normal((count, P))).astype(np.float32)


@given(st.integers(0, 10**6), st.integers(1, 8))
def test_the_values_sum_to_the_rounds_true_improvement(seed: int, count: int) -> None:
    loss, (base_P, parts_NP) = Quartic(seed), updates(seed, count)
    moved_P = parts_NP.sum(axis=0)
    gradient_P = path_gradient(loss.gradient, base_P, moved_P)
    values = [-float(gradient_P @ part) for part in parts_NP]
    improvement = loss.loss(base_P) - loss.loss(base_P.astype(np.float64) + moved_P)
    assert sum(values) == pytest.approx(improvement, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_on_a_quadratic_loss_they_are_the_exact_shapley_values(seed: int) -> None:
    loss, (base_P, parts_NP) = Quartic(seed, quartic=0.0), updates(seed, 5)
    gradient_P = path_gradient(loss.gradient, base_P, parts_NP.sum(axis=0))
    exact, orders = np.zeros(5), list(permutations(range(5)))
    for order in orders:
        at_P = base_P.astype(np.float64)
        for i in order:
            exact[i] += loss.loss(at_P) - loss.loss(at_P + parts_NP[i])
            at_P = at_P + parts_NP[i]
    assert np.allclose(-parts_NP @ gradient_P, exact / len(orders), atol=1e-5)


@given(st.integers(0, 10**6), st.lists(st.floats(-3, 3), min_size=3, max_size=3))
def test_an_update_made_of_the_models_movements_is_worth_nothing(seed: int, shares: list[float]) -> None:
    rng = np.random.default_rng(seed)
    movements = list(rng.standard_normal((3, P)).astype(np.float32) * np.float32([[1e-3], [1], [1e3]]))
    gradient_P = rng.standard_normal(P)
    update_P = sum(np.float32(s) * m for s, m in zip(shares, movements, strict=True))
    slopes = Span(movements, gradient_P).slopes(None, update_P)
    lengths = float(np.linalg.norm(gradient_P) * np.linalg.norm(update_P))  # single precision is relative to these
    assert slopes.whole == pytest.approx(float(gradient_P @ update_P.astype(np.float64)), abs=1e-6 * (1 + lengths))
    assert abs(slopes.own) <= 2e-6 * (1 + lengths)


@given(st.integers(0, 10**6))
def test_leaving_values_of_a_movement_out_does_not_make_it_ones_own(seed: int) -> None:
    rng = np.random.default_rng(seed)
    movement_P, gradient_P = rng.standard_normal(P).astype(np.float32), rng.standard_normal(P)
    kept = np.sort(rng.permutation(P)[:5]).astype(np.uint32)
    masked_P = np.zeros(P, dtype=np.float32)
    masked_P[kept] = movement_P[kept]
    span = Span([movement_P], gradient_P)
    for slopes in (span.slopes(kept, movement_P[kept]), span.slopes(None, masked_P)):
        assert abs(slopes.own) < 1e-5


def test_what_is_left_of_an_update_is_what_is_orthogonal_to_the_movements() -> None:
    rng = np.random.default_rng(3)
    movements, gradient_P = rng.standard_normal((2, P)).astype(np.float32), rng.standard_normal(P)
    update_P = rng.standard_normal(P).astype(np.float32)
    basis, _ = np.linalg.qr(movements.T.astype(np.float64))
    rest_P = update_P - basis @ (basis.T @ update_P)
    assert Span(list(movements), gradient_P).slopes(None, update_P).own == pytest.approx(float(gradient_P @ rest_P))


def test_a_slow_nodes_update_keeps_what_others_found_since_but_a_later_movement_itself_is_nobodys() -> None:
    rng = np.random.default_rng(5)
    later_P, earlier_P, own_P, gradient_P = rng.standard_normal((4, 4000))
    movements = [later_P.astype(np.float32), earlier_P.astype(np.float32)]
    span = Span(movements, gradient_P)
    honest_P = (0.5 * later_P + own_P).astype(np.float32)
    rest_P = honest_P - earlier_P * (earlier_P @ honest_P) / (earlier_P @ earlier_P)
    assert span.slopes(None, honest_P, later=1).own == pytest.approx(float(gradient_P @ rest_P), rel=1e-3, abs=1e-2)
    copied_P = (later_P + 0.2 * own_P).astype(np.float32)
    assert span.slopes(None, copied_P, later=1).own == pytest.approx(span.slopes(None, copied_P).own)


def test_statistics_are_no_movement() -> None:
    movement_P = np.arange(P, dtype=np.float32)
    gradient_P = np.ones(P)
    gradient_P[:4] = 0
    span = Span([movement_P], gradient_P, still=((0, 4),))
    update_P = np.where(np.arange(P) < 4, 100, movement_P).astype(np.float32)
    assert abs(span.slopes(None, update_P).own) < 1e-4
