"""Near copies share one reward: within a round and over rounds, with noise, whichever came first."""

from __future__ import annotations

import numpy as np
import pytest

from hypergpu_fl.ledger.near_copies import SKETCH, signs, sketch
from hypergpu_fl.ledger.shared_work import SharedWork

SIZE = 20_000


def work(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(SIZE).astype(np.float32)


def noisy(update_P: np.ndarray, share: float, seed: int = 99) -> np.ndarray:
    noise = work(seed)
    return update_P + np.float32(share * np.linalg.norm(update_P) / np.linalg.norm(noise)) * noise


def sketches(*updates: np.ndarray) -> np.ndarray:
    return np.stack([sketch(None, update, signs(SIZE)) for update in updates])


def test_copies_within_a_round_are_worth_together_what_the_best_of_them_is() -> None:
    one, other = work(1), work(2)
    found = sketches(one, other, noisy(one, 0.05), 3 * one, work(3))
    scores, twins = SharedWork().shared(1, list("abcde"), found, [100, 70, 100, 50, 40])
    assert scores == [100 * 100 // 250, 70, 100 * 100 // 250, 50 * 100 // 250, 40]
    assert twins[1] == twins[4] == "" and twins[0] in "cd" and twins[2] in "ad"


def test_a_node_may_send_like_updates_itself_and_harm_is_not_shared() -> None:
    one = work(1)
    scores, twins = SharedWork().shared(1, list("aab"), sketches(one, noisy(one, 0.05), work(2)), [60, 50, 40])
    assert (scores, twins) == ([60, 50, 40], ["", "", ""])
    scores, _ = SharedWork().shared(1, list("abc"), sketches(one, noisy(one, 0.05), work(2)), [-60, -50, 40])
    assert scores == [-60, -50, 40]


@pytest.mark.parametrize("first", ["victim", "copy"])
def test_over_rounds_each_ends_up_with_an_even_part_whoever_came_first(first: str) -> None:
    nodes = ["victim", "copy"] if first == "victim" else ["copy", "victim"]
    shared, one = SharedWork(), work(1)
    total = dict.fromkeys([*nodes, "other"], 0)
    rounds = [
        ([nodes[0], "other"], sketches(one, work(2)), [100, 30]),
        ([nodes[1], "other"], sketches(noisy(one, 0.05), work(3)), [100, 30]),
        ([nodes[0], "other"], sketches(work(4), work(5)), [80, 30]),
    ]
    for round, (names, found, scores) in enumerate(rounds, start=1):
        for name, score in zip(names, shared.shared(round, names, found, scores)[0], strict=True):
            total[name] += score
    assert total == {nodes[0]: 50 + 80, nodes[1]: 50, "other": 90}


def test_the_same_update_with_fresh_noise_again_and_again_brings_nothing_more() -> None:
    shared, one, total = SharedWork(), work(1), 0
    shared.shared(1, ["victim"], sketches(one), [100])
    for round in range(2, 7):
        total += shared.shared(round, ["copy"], sketches(noisy(one, 0.05, seed=round)), [100])[0][0]
    assert total == 50


def test_nodes_with_like_data_are_no_copies() -> None:
    common = work(1)
    alike = [noisy(common, 0.15, seed=10 + i) for i in range(5)]  # cosines of 0.98 with one another
    scores, twins = SharedWork().shared(1, list("abcde"), sketches(*alike), [10] * 5)
    assert scores == [10] * 5 and not any(twins)
    copied = [*alike[:4], noisy(alike[0], 0.02)]
    scores, twins = SharedWork().shared(1, list("abcde"), sketches(*copied), [10] * 5)
    assert scores == [5, 10, 10, 10, 5] and [bool(twin) for twin in twins] == [True, False, False, False, True]


def test_a_node_that_goes_on_as_before_is_not_taken_for_one_that_copied_it() -> None:
    shared, before = SharedWork(), work(1)
    shared.shared(1, ["victim", "copy"], sketches(before, noisy(before, 0.05)), [100, 100])
    scores, twins = shared.shared(2, ["victim"], sketches(noisy(before, 0.25, seed=98)), [100])
    assert (scores, twins) == ([100], [""])


def test_what_is_remembered_survives_a_restart() -> None:
    shared, one = SharedWork(), work(1)
    shared.shared(1, ["victim"], sketches(one), [100])
    again = SharedWork.restored(*shared.state())
    found = [each.shared(2, ["copy"], sketches(noisy(one, 0.05)), [100]) for each in (shared, again)]
    assert found[0] == found[1] == ([50], ["victim"])
    assert shared.debits == again.debits == {"victim": 50}


def test_a_sparse_update_has_the_sketch_of_the_dense_one_that_it_stands_for() -> None:
    index = np.sort(np.random.default_rng(0).permutation(SIZE)[:600]).astype(np.uint32)
    value, dense = work(1)[:600], np.zeros(SIZE, dtype=np.float32)
    dense[index] = value
    folded = sketch(index, value, signs(SIZE))
    assert folded.shape == (SKETCH,)
    assert np.allclose(folded, sketch(None, dense, signs(SIZE)), atol=1e-4)
