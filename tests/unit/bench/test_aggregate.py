"""The aggregation bench measures the same sum three ways; nothing here asserts how long it took."""

from __future__ import annotations

import json

import numpy as np

from hypergpu_fl.bench.aggregate import memory_pass, ours, peak_bytes, run_aggregate


def test_a_row_a_number_of_nodes() -> None:
    rows = run_aggregate(nodes=(3, 12), megabytes=0.4, repeats=2)
    assert [(row["nodes"], row["megabytes"]) for row in rows] == [(3, 0.4), (12, 0.4)]
    assert all(row[key] > 0 for row in rows for key in ("ours_s", "flower_s", "memory_pass_s"))
    assert json.loads(json.dumps(rows)) == rows


def test_what_is_measured_is_the_weighted_mean_and_the_plain_sum() -> None:
    vectors = [np.full(5, i, np.float32) for i in range(3)]
    np.testing.assert_allclose(ours(vectors), np.full(5, (0 * 1 + 1 * 2 + 2 * 3) / 6), rtol=1e-6)
    np.testing.assert_array_equal(memory_pass(vectors), np.full(5, 3, np.float32))


def test_memory_does_not_grow_with_the_number_of_nodes_and_stays_below_four_models() -> None:
    size = 1_500_000
    few, many = peak_bytes(2, size), peak_bytes(20, size)
    assert many < 1.05 * few and many < 4 * 4 * size
