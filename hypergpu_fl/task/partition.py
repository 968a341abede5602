"""Which node holds which sample: Flower's partitioners, with every sample assigned exactly once.

N = samples, K = nodes. A partition is kept as one permutation of the N samples and K + 1 offsets into it, and
cached on disk under the hash of everything it depends on, since Flower starts a process for every message and importing
the partitioners alone takes seconds.
"""

from __future__ import annotations

import hashlib
import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from loguru import logger
from numpy.typing import NDArray

from hypergpu_fl.config import Training
from hypergpu_fl.errors import TaskError, first_line
from hypergpu_fl.files import replacing
from hypergpu_fl.task.names import unknown
from strategies.prose import amount

if TYPE_CHECKING:
    from flwr_datasets.partitioner import Partitioner

Labels = NDArray[np.int64]
Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Split:
    """How samples are dealt out. ``alpha`` is Dirichlet's; ``classes_per_node`` is for pathological and shard."""

    partitioner: str
    num_nodes: int
    seed: int
    alpha: float = 0.3
    classes_per_node: int = 2


@dataclass(frozen=True, slots=True)
class Partition:
    """``order_N`` holds the samples of node 0, then of node 1, and so on; node k's begin at ``offsets[k]``."""

    order_N: Indices
    offsets: Indices

    @property
    def num_nodes(self) -> int:
        """K, the number of nodes."""
        return len(self.offsets) - 1

    def size(self, node: int) -> int:
        """Count of a node's samples."""
        return int(self.offsets[node + 1] - self.offsets[node])

    def indices(self, node: int) -> Indices:
        """Return the samples of one node."""
        return self.order_N[self.offsets[node] : self.offsets[node + 1]]


def dealt_out(training: Training, labels_N: Labels, cache: Path, *, simulated: bool) -> Partition | None:
    """Partition that the configuration asks for; None for a folder on a real node, which is that node's own.

    Raises
    ------
    TaskError
        As `partition`.
    """
    if training.dataset == "folder" and not simulated:
        return None
    split = Split(training.partitioner, training.num_nodes, training.seed, training.alpha, training.classes_per_node)
    return partition(labels_N, split, cache)


def partition(labels_N: Labels, split: Split, cache: Path) -> Partition:
    """Split the samples among the nodes, or read the cached split.

    Raises
    ------
    TaskError
        If the partitioner is unknown or cannot give every node a sample.
    """
    if split.partitioner not in PARTITIONERS:
        raise unknown("training.partitioner", split.partitioner, PARTITIONERS)
    if split.num_nodes > len(labels_N):
        raise TaskError(
            f"training.num_nodes = {split.num_nodes} is more than the training set's {amount(len(labels_N), 'sample')}",
            "use fewer nodes or a larger data set",
        )
    file = cache / f"partition-{_key(labels_N, split)}.npz"
    if (cached := _read(file, len(labels_N), split.num_nodes)) is not None:
        return cached
    fresh = _deal(labels_N, split)
    _write(file, fresh)
    return fresh


def _key(labels_N: Labels, split: Split) -> str:
    digest = hashlib.sha256(json.dumps(asdict(split), sort_keys=True).encode())
    digest.update(np.ascontiguousarray(labels_N, dtype="<i8").tobytes())
    return digest.hexdigest()[:32]


def _read(file: Path, samples: int, nodes: int) -> Partition | None:
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            order, offsets = stored["order"], stored["offsets"]
    except FileNotFoundError:
        return None
    except Exception as error:  # a damaged archive fails in as many ways as it has bytes; all mean: compute again
        logger.warning("cached partition {} is unreadable and will be computed again: {}", file, error)
        return None
    whole = (
        order.dtype == offsets.dtype == np.int64
        and order.shape == (samples,)
        and offsets.shape == (nodes + 1,)
        and (offsets[0], offsets[-1]) == (0, samples)
        and bool((np.diff(offsets) > 0).all())
        and np.array_equal(np.sort(order), np.arange(samples))
    )
    if not whole:
        logger.warning("cached partition {} is not one of {} samples; it will be computed again", file, samples)
        return None
    return Partition(order, offsets)


def _write(file: Path, fresh: Partition) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    # Many processes may compute the same partition at once: each writes its own file, and the last rename wins.
    with replacing(file) as draft, draft.open("wb") as stream:
        np.savez(stream, order=fresh.order_N, offsets=fresh.offsets)


def _deal(labels_N: Labels, split: Split) -> Partition:
    from datasets import Dataset

    _import_partitioners()

    rng = np.random.default_rng(split.seed)
    # The IID partitioner cuts the set into runs as it lies, so it has to be shuffled first.
    rows_N = rng.permutation(len(labels_N))
    table = Dataset.from_dict({"label": labels_N[rows_N], "row": rows_N})
    shares: list[Indices] | None = None
    reason = ""
    for make in PARTITIONERS[split.partitioner](split):
        partitioner = make()
        partitioner.dataset = table
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what they warn of is either retried or refused below
                shares = [
                    np.asarray(partitioner.load_partition(node)["row"], dtype=np.int64)
                    for node in range(split.num_nodes)
                ]
        except ZeroDivisionError:  # shards of no sample
            reason = (
                f"there are {amount(len(labels_N), 'sample')} for {split.num_nodes} x {split.classes_per_node} shards"
            )
            continue
        except ValueError as error:
            reason = first_line(error)
            continue
        break
    if shares is None:
        raise _impossible(split, reason)
    return _complete(shares, labels_N, split)


def _complete(shares: list[Indices], labels_N: Labels, split: Split) -> Partition:
    """Give each sample that the partitioner left over to the smallest node that holds its class."""
    sizes = np.array([len(share) for share in shares])
    left = np.setdiff1d(np.arange(len(labels_N)), np.concatenate(shares))
    if len(left):
        extra: list[list[int]] = [[] for _ in shares]
        classes, label_N = np.unique(labels_N, return_inverse=True)
        holds = np.array([np.bincount(label_N[share], minlength=len(classes)) > 0 for share in shares])
        for sample in left:
            holders = np.flatnonzero(holds[:, label_N[sample]])
            if not len(holders):
                raise _impossible(split, f"no node would hold class {labels_N[sample]}")
            node = int(holders[np.argmin(sizes[holders])])
            extra[node].append(int(sample))
            sizes[node] += 1
        shares = [
            np.concatenate([share, np.array(more, dtype=np.int64)]) for share, more in zip(shares, extra, strict=True)
        ]
    if (sizes == 0).any():
        raise _impossible(split, f"node {int(np.argmin(sizes))} would get no sample")
    return Partition(np.concatenate(shares), np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))


def _impossible(split: Split, reason: str) -> TaskError:
    remedy = {
        "dirichlet": "raise training.alpha or lower training.num_nodes",
        "pathological": "raise training.classes_per_node, or choose training.num_nodes no lower than the classes",
        "shard": "lower training.num_nodes or training.classes_per_node",
    }.get(split.partitioner, "lower training.num_nodes")
    return TaskError(
        f"the {split.partitioner} partitioner cannot serve {amount(split.num_nodes, 'node')}: {reason}", remedy
    )


def _import_partitioners() -> None:
    """Import Flower's partitioners without the plots beside them.

    Those load matplotlib and seaborn: seconds of processor, and a list of fonts in the home directory.
    """
    plots = "flwr_datasets.visualization"
    if "flwr_datasets" in sys.modules:
        return
    sys.modules[plots] = ModuleType(plots)
    try:
        import flwr_datasets

        del flwr_datasets.visualization  # whoever imports it after this gets the true one
    finally:
        del sys.modules[plots]


def _iid(split: Split) -> list[Callable[[], Partitioner]]:
    from flwr_datasets.partitioner import IidPartitioner

    return [lambda: IidPartitioner(split.num_nodes)]


def _dirichlet(split: Split) -> list[Callable[[], Partitioner]]:
    from flwr_datasets.partitioner import DirichletPartitioner

    def at_least(samples: int) -> Callable[[], Partitioner]:
        return lambda: DirichletPartitioner(
            split.num_nodes, "label", split.alpha, min_partition_size=samples, seed=split.seed
        )

    # Flower's own floor is 10 samples a node. Many nodes or a small alpha cannot keep it in its eleven tries.
    return [at_least(10), at_least(1)]


def _pathological(split: Split) -> list[Callable[[], Partitioner]]:
    from flwr_datasets.partitioner import PathologicalPartitioner

    return [
        lambda: PathologicalPartitioner(
            split.num_nodes, "label", split.classes_per_node, "first-deterministic", seed=split.seed
        )
    ]


def _shard(split: Split) -> list[Callable[[], Partitioner]]:
    from flwr_datasets.partitioner import ShardPartitioner

    return [
        lambda: ShardPartitioner(
            split.num_nodes, "label", num_shards_per_partition=split.classes_per_node, seed=split.seed
        )
    ]


PARTITIONERS: dict[str, Callable[[Split], list[Callable[[], Any]]]] = {
    "iid": _iid,
    "dirichlet": _dirichlet,
    "pathological": _pathological,
    "shard": _shard,
}
