"""Sketches are as alike as what they stand for."""

from __future__ import annotations

import numpy as np
import pytest

from hypergpu_fl.ledger.near_copies import SKETCH, sketch


@pytest.mark.parametrize("cosine", [0.0, 0.5, 0.9, 0.95, 0.99, 1.0])
def test_sketches_are_as_alike_as_the_updates_to_the_accuracy_that_is_claimed(cosine: float) -> None:
    rng = np.random.default_rng(0)
    signs = rng.choice(np.array([-1, 1], dtype=np.int8), size=100_003)
    errors = []
    for _ in range(40):
        first, other = rng.standard_normal((2, signs.size), dtype=np.float32)
        second = cosine * first + np.sqrt(1 - cosine**2) * other
        folded = [sketch(None, update, signs) for update in (first, second)]
        assert {update.shape for update in folded} == {(SKETCH,)}
        errors.append(alike(*folded) - alike(first, second))
    assert np.std(errors) <= 1.5 * (1 - cosine**2) / SKETCH**0.5 + 1e-6


def alike(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
