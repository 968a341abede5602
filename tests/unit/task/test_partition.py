from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from full_disk import full_disk
from hypothesis import given, settings
from hypothesis import strategies as st

from hypergpu_fl.errors import TaskError
from hypergpu_fl.task.partition import PARTITIONERS, Partition, Split, partition


def labels(samples: int, classes: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(classes, size=samples)


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, Split]:
    label_N = labels(draw(st.integers(1, 400)), draw(st.integers(1, 12)), draw(st.integers(0, 9)))
    split = Split(
        partitioner=draw(st.sampled_from(sorted(PARTITIONERS))),
        num_nodes=draw(st.integers(1, 40)),
        seed=draw(st.integers(0, 2**32)),
        alpha=draw(st.floats(0.05, 100)),
        classes_per_node=draw(st.integers(1, 5)),
    )
    return label_N, split


@settings(max_examples=60)
@given(cases())
def test_every_sample_goes_to_exactly_one_node_and_every_node_has_one_or_the_split_is_refused(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[np.ndarray, Split]
) -> None:
    label_N, split = case
    try:
        found = partition(label_N, split, tmp_path_factory.mktemp("cache"))
    except TaskError as error:
        assert error.remedy
        return
    shares = [found.indices(node).tolist() for node in range(split.num_nodes)]
    assert found.num_nodes == split.num_nodes
    assert all(len(share) == found.size(node) > 0 for node, share in enumerate(shares))
    assert sorted(sample for share in shares for sample in share) == list(range(len(label_N)))


@pytest.mark.parametrize("name", sorted(PARTITIONERS))
def test_every_partitioner_serves_ten_nodes_of_a_balanced_set(name: str, tmp_path: Path) -> None:
    found = partition(np.arange(1000) % 10, Split(name, 10, seed=3), tmp_path)
    assert found.num_nodes == 10


@pytest.mark.parametrize("name", sorted(PARTITIONERS))
def test_the_seed_alone_decides_the_partition(name: str, tmp_path: Path) -> None:
    label_N = np.arange(600) % 10
    first, again, other = (
        partition(label_N, Split(name, 10, seed), tmp_path / folder) for folder, seed in [("a", 1), ("b", 1), ("c", 2)]
    )
    assert np.array_equal(first.order_N, again.order_N) and np.array_equal(first.offsets, again.offsets)
    assert not np.array_equal(first.order_N, other.order_N)


def test_a_pathological_node_holds_exactly_its_number_of_classes(tmp_path: Path) -> None:
    label_N = labels(2000, 10, 0)
    found = partition(label_N, Split("pathological", 20, seed=0, classes_per_node=3), tmp_path)
    assert all(len(np.unique(label_N[found.indices(node)])) == 3 for node in range(20))


def test_a_smaller_alpha_makes_nodes_less_alike(tmp_path: Path) -> None:
    label_N = labels(5000, 10, 0)

    def skew(alpha: float) -> float:
        found = partition(label_N, Split("dirichlet", 10, seed=0, alpha=alpha), tmp_path)
        rows = [np.bincount(label_N[found.indices(node)], minlength=10) / found.size(node) for node in range(10)]
        return float(np.std(rows))

    assert skew(0.1) > skew(1.0) > skew(100.0)


def cached_file(folder: Path) -> Path:
    (file,) = folder.glob("partition-*.npz")
    return file


def test_a_cached_partition_is_read_and_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    label_N, split = labels(300, 10, 0), Split("iid", 5, seed=0)
    first = partition(label_N, split, tmp_path)
    monkeypatch.setitem(PARTITIONERS, "iid", lambda split: pytest.fail("computed again"))
    again = partition(label_N, split, tmp_path)
    assert np.array_equal(first.order_N, again.order_N) and np.array_equal(first.offsets, again.offsets)


@settings(max_examples=40)
@given(position=st.integers(0, 10_000), flip=st.integers(1, 255), cut=st.booleans())
def test_a_damaged_cache_never_changes_the_partition(
    tmp_path_factory: pytest.TempPathFactory, position: int, flip: int, cut: bool
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    label_N, split = labels(100, 4, 0), Split("iid", 5, seed=0)
    whole = partition(label_N, split, folder)
    file = cached_file(folder)
    content = bytearray(file.read_bytes())
    position %= len(content)
    if cut:
        file.write_bytes(content[:position])
    else:
        content[position] ^= flip
        file.write_bytes(content)
    again = partition(label_N, split, folder)
    assert np.array_equal(whole.order_N, again.order_N) and np.array_equal(whole.offsets, again.offsets)


def test_a_cached_file_that_is_no_partition_is_computed_again(tmp_path: Path) -> None:
    label_N, split = labels(100, 4, 0), Split("iid", 5, seed=0)
    whole = partition(label_N, split, tmp_path)
    np.savez(cached_file(tmp_path), order=np.zeros(100, np.int64), offsets=whole.offsets)
    assert np.array_equal(partition(label_N, split, tmp_path).order_N, whole.order_N)


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    partition(labels(10, 4, 0), Split("iid", 2, seed=0), tmp_path / "first")  # imports what writes files of its own
    with full_disk(largest_bytes=256), pytest.raises(OSError, match="too large"):
        partition(labels(100, 4, 0), Split("iid", 5, seed=0), tmp_path / "full")
    assert not [file for file in (tmp_path / "full").iterdir() if file.is_file()]


def test_samples_left_over_go_to_a_node_that_holds_their_class(tmp_path: Path) -> None:
    label_N = np.sort(labels(103, 4, 0))  # 103 samples leave some over after 5 nodes x 2 shards of 10
    found = partition(label_N, Split("shard", 5, seed=0), tmp_path)
    assert sorted(found.order_N) == list(range(103))
    assert max(len(np.unique(label_N[found.indices(node)])) for node in range(5)) <= 4


@pytest.mark.parametrize(
    ("split", "cause"),
    [
        (Split("dirichle", 5, 0), "training.partitioner = 'dirichle' is not known"),
        (Split("iid", 101, 0), "training.num_nodes = 101 is more than the training set's 100 samples"),
        (Split("pathological", 3, 0, classes_per_node=2), "no node would hold class"),
        (Split("pathological", 3, 0, classes_per_node=11), "greater than the number"),
        (Split("shard", 60, 0, classes_per_node=2), "the shard partitioner cannot serve 60 nodes"),
        (Split("dirichlet", 90, 0, alpha=0.01), "the dirichlet partitioner cannot serve 90 nodes"),
    ],
)
def test_a_split_that_cannot_be_is_refused_with_its_cause(split: Split, cause: str, tmp_path: Path) -> None:
    with pytest.raises(TaskError) as caught:
        partition(np.arange(100) % 10, split, tmp_path)
    assert cause in caught.value.cause
    assert caught.value.remedy


def test_nodes_index_their_own_stretch_of_the_order() -> None:
    found = Partition(np.array([4, 2, 0, 1, 3]), np.array([0, 2, 5]))
    assert (found.size(0), found.indices(1).tolist()) == (2, [0, 1, 3])
