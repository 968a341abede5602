"""Laws of scores, and GTG-Shapley against the exact Shapley value."""

from __future__ import annotations

import math
from itertools import permutations
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypergpu_fl.ledger.scoring import (
    SCORE_UNIT,
    gtg_shapley,
    improvement_score,
    leave_one_out,
    to_scores,
    weight_score,
)

losses = st.floats(0.0, 10.0)


@given(st.integers(0, 10**6), losses, losses, st.integers(1, 10**6))
def test_an_improvement_earns_at_most_one_unit_an_example_and_a_setback_nothing(
    examples: int, before: float, after: float, cap: int
) -> None:
    score = improvement_score(examples, before, after, max_examples=cap)
    assert 0 <= score <= SCORE_UNIT * min(examples, cap)
    assert after < before or score == 0


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), 0.0])
def test_a_loss_that_says_nothing_earns_nothing(loss: float) -> None:
    assert improvement_score(100, loss, 0.5, max_examples=1000) == 0


def test_more_examples_than_the_cap_earn_no_more() -> None:
    assert weight_score(10**9, 0.5, max_examples=100) == weight_score(100, 0.5, max_examples=100)


def game(seed: int, count: int) -> dict[tuple[int, ...], float]:
    """Losses of all coalitions of a game in which contributions overlap."""
    rng = np.random.default_rng(seed)
    skills = rng.random((count, 3))
    table = {}
    for mask in range(2**count):
        members = tuple(i for i in range(count) if mask >> i & 1)
        covered = 1 - np.prod([1 - 0.5 * skills[i] for i in members], axis=0) if members else np.zeros(3)
        table[members] = float(2.0 - covered.mean())
    return table


def exact_shapley(table: dict[tuple[int, ...], float], count: int) -> list[float]:
    sums = [0.0] * count
    orders = list(permutations(range(count)))
    for order in orders:
        for place, i in enumerate(order):
            sums[i] += table[tuple(sorted(order[:place]))] - table[tuple(sorted(order[: place + 1]))]
    return [total / len(orders) for total in sums]


@pytest.mark.parametrize("seed", range(4))
def test_gtg_shapley_is_close_to_the_exact_shapley_value(seed: int) -> None:
    count = 6
    table = game(seed, count)
    found = gtg_shapley(count, table.__getitem__, rng=np.random.default_rng(seed), max_permutations=600)
    assert np.allclose(found, exact_shapley(table, count), rtol=0.15, atol=0.01)


@given(st.integers(0, 1000), st.integers(1, 7))
def test_gtg_shapley_shares_out_the_rounds_whole_effect(seed: int, count: int) -> None:
    table = game(seed, count)
    values = gtg_shapley(count, table.__getitem__, rng=np.random.default_rng(seed), tolerance=0.0)
    assert sum(values) == pytest.approx(table[()] - table[tuple(range(count))], rel=1e-6)


def test_gtg_shapley_gives_idle_nodes_nothing_and_equal_nodes_the_same() -> None:
    def loss(members: tuple[int, ...]) -> float:
        return 1.0 - 0.3 * len({0, 1} & set(members))

    values = gtg_shapley(4, loss, rng=np.random.default_rng(0))
    assert values == pytest.approx([0.3, 0.3, 0.0, 0.0])
    assert leave_one_out(4, loss) == pytest.approx([0.3, 0.3, 0.0, 0.0])


BROKEN = st.sampled_from([math.nan, math.inf, 1e300, 1e30, 50.0])


@given(st.integers(2, 6), BROKEN, st.booleans(), st.integers(0, 5))
def test_who_breaks_models_spoils_no_other_nodes_score(count: int, broken: float, outvoted: bool, seed: int) -> None:
    """Node 0 breaks every model in which it is not outvoted; the others bring the same each, whatever it does."""

    def loss(members: tuple[int, ...]) -> float:
        if 0 in members and len(members) < (count if outvoted else 3):
            return broken
        return 1.0 - 0.1 * len(set(members) - {0})

    for values in (
        gtg_shapley(count, loss, rng=np.random.default_rng(seed), tolerance=0.0, max_permutations=120),
        leave_one_out(count, loss),
    ):
        assert values[0] == 0.0 or count == 2
        assert all(0.0 < value <= 11.0 for value in values[1:]) or count == 2
        assert sum(to_scores(values)) <= 11 * count * 10**9


@given(st.integers(0, 3), st.lists(BROKEN, min_size=1, max_size=4), st.randoms())
def test_however_many_break_a_round_the_others_score_as_without_them(
    sound: int, broken: list[float], rng: Random
) -> None:
    count = sound + len(broken)
    breakers = dict(zip(rng.sample(range(count), len(broken)), broken, strict=True))

    def loss(members: tuple[int, ...]) -> float:
        worst = [breakers[i] for i in members if i in breakers]
        return sum(worst) if worst else 1.0 - 0.1 * len(members)

    found = leave_one_out(count, loss)
    assert found == pytest.approx([0.0 if i in breakers else 0.1 for i in range(count)])


@given(st.integers(0, 50), BROKEN)
def test_one_broken_coalition_takes_no_score_from_whoever_is_not_in_it(seed: int, broken: float) -> None:
    table = game(seed, 4)
    whole = gtg_shapley(4, table.__getitem__, rng=np.random.default_rng(0), tolerance=0.0)
    spoilt = gtg_shapley(4, {**table, (0,): broken}.__getitem__, rng=np.random.default_rng(0), tolerance=0.0)
    assert all(np.isfinite(spoilt))
    assert all(after >= before - 1e-9 for after, before in zip(spoilt[1:], whole[1:], strict=True))


@pytest.mark.parametrize("count", [0, 1, 32, 33, 100, 5000])
def test_gtg_shapley_prices_any_number_of_nodes_with_a_bounded_number_of_losses(count: int) -> None:
    calls: list[tuple[int, ...]] = []
    idle = count // 2

    def loss(members: tuple[int, ...]) -> float:
        calls.append(members)
        return 1.0 - sum(i >= idle for i in members) / max(1, count)

    values = gtg_shapley(count, loss, rng=np.random.default_rng(0))
    assert len(values) == count and not any(values[:idle])
    assert count < 1000 or len(calls) <= count + 2, "one permutation is the least"
    assert len(calls) <= max(32 * 32 * 4, count) + 2
    if 0 < count <= 100:
        assert sum(values) == pytest.approx((count - idle) / count, rel=0.02)


def test_values_become_integer_scores() -> None:
    assert to_scores([0.0, -0.5, 1.25, float("nan"), float("inf")]) == [0, -500_000_000, 1_250_000_000, 0, 0]
