"""Scenarios of a race: links from a trace or a profile, and labels independent of links or correlated with them.

Nodes are numbered so that the slowest fifth comes last. In ``independent``, labels are dealt to all nodes alike. In
``correlated``, the slowest fifth holds two of the classes and nothing else, and no other node holds these classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hypergpu_fl.config import System, Training, runs_root
from hypergpu_fl.errors import TaskError
from hypergpu_fl.network.traces import links_from_traces
from hypergpu_fl.network.wan import PROFILES, SimulatedLink, draw_links
from hypergpu_fl.task.image import ImageTask
from hypergpu_fl.task.partition import Partition, Split, partition

Labels = Literal["independent", "correlated"]
SLOW_SHARE = 0.2
SLOW_CLASSES = 2
CORRELATED_TASK = "hypergpu_fl.bench.scenarios:correlated_task"


@dataclass(frozen=True, slots=True)
class Links:
    """Source of links: a device trace, with or without round-trip times, or a named profile."""

    name: str
    devices: Path | None = None
    round_trips: Path | None = None

    def draw(self, nodes: int, *, payload_bytes: float, samples: float, seed: int) -> list[SimulatedLink]:
        """Draw ``nodes`` links, those with the longest plain round last.

        A plain round moves ``payload_bytes`` each way and processes ``samples``.
        """
        links = (
            links_from_traces(self.devices, self.round_trips, nodes, seed=seed)
            if self.devices
            else draw_links(PROFILES[self.name], nodes, seed=seed)
        )

        def plain_round_s(link: SimulatedLink) -> float:
            transfer_s = 8 * payload_bytes * (1 / link.uplink_bps + 1 / link.downlink_bps)
            return transfer_s + samples * link.sample_s + link.rtt_s

        return sorted(links, key=plain_round_s)


def slow_nodes(nodes: int) -> range:
    """Rows of the slowest fifth."""
    return range(nodes - max(1, round(SLOW_SHARE * nodes)), nodes)


def slow_classes(classes: int, seed: int) -> NDArray[np.int64]:
    """The two classes that only slow nodes hold."""
    return np.sort(np.random.default_rng([seed, 0x44]).choice(classes, size=SLOW_CLASSES, replace=False))


def slow_accuracy(correct: tuple[int, ...], examples: tuple[int, ...], slow_share: NDArray[np.float64]) -> float:
    """Accuracy on what the slow fifth holds: class accuracies weighted by the classes' shares of its data."""
    present = np.asarray(examples) > 0
    rates = np.asarray(correct)[present] / np.asarray(examples)[present]
    return float((rates * slow_share[present]).sum() / slow_share[present].sum())


class CorrelatedTask(ImageTask):
    """The built-in task, with two classes dealt to the slowest fifth of nodes and the others to the rest."""

    def __init__(self, training: Training, cache: Path) -> None:
        super().__init__(training.model_copy(update={"partitioner": "iid"}), cache)
        if training.num_nodes < 5:
            raise TaskError("there is no slowest fifth of fewer than 5 nodes", "take at least 5")
        labels_N = self.images.train.labels_N
        is_slow_N = np.isin(labels_N, slow_classes(self.images.classes, training.seed))
        slow = len(slow_nodes(training.num_nodes))
        pieces, sizes = [], []
        for rows, nodes in ((~is_slow_N, training.num_nodes - slow), (is_slow_N, slow)):
            members = np.flatnonzero(rows)
            dealt = partition(labels_N[members], Split("dirichlet", nodes, training.seed, training.alpha), cache)
            pieces.append(members[dealt.order_N])
            sizes.append(np.diff(dealt.offsets))
        offsets = np.concatenate([[0], np.cumsum(np.concatenate(sizes))]).astype(np.int64)
        self._partition = Partition(np.concatenate(pieces), offsets)


def correlated_task(training: Training) -> CorrelatedTask:
    """Build the task that ``training.task`` names; it is the same in every process."""
    return CorrelatedTask(training, runs_root(System()) / ".cache")
