"""A planner's input and output: codec levels, the baseline's work, and the plans of all nodes.

Names used here: N = known nodes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from strategies.fleet import Fleet, Floats, Ints

FEWEST_STEPS = 5  # below, the noise of single batches outweighs the gain of shorter rounds
MOST_STEPS = 20  # beyond, local models drift apart and more work no longer pays


@dataclass(frozen=True, slots=True)
class Compression:
    """What a codec level does to an update, as far as the planner needs it.

    ``expected_ratio``: logical fp32 bytes over bytes on the wire. ``fidelity``: share of an update's squared norm that
    arrives at once; with error feedback the rest comes later.
    """

    name: str
    expected_ratio: float
    fidelity: float = 1.0


@dataclass(frozen=True, slots=True)
class WorkPlan:
    """One node's work in one round."""

    local_steps: int
    batch_size: int
    codec: str
    deadline_s: float


@dataclass(frozen=True, slots=True)
class Workload:
    """What the baseline round would be: steps of ``batch_size``, and the model's size as fp32.

    ``common_bytes``: bytes of a download that do not depend on its level. ``fixed``: the configuration fixes the steps,
    so that no planner may choose them; otherwise the planner chooses ``within`` the fewest and the most.
    """

    base_steps: Ints  # (N,)
    batch_size: int
    model_bytes: int
    common_bytes: float = 0.0
    fixed: bool = False
    within: tuple[int, int] = (FEWEST_STEPS, MOST_STEPS)


@dataclass(frozen=True)
class FleetPlan:
    """Plans of all N nodes, as columns. ``compute_s`` and ``upload_s`` are parts of ``predicted_s``.

    ``longest_s``: the longest time that any one node is given, however long it is predicted to need.
    """

    local_steps: Ints
    level: Ints
    predicted_s: Floats
    compute_s: Floats
    upload_s: Floats
    deadline_s: float
    batch_size: int
    levels: Sequence[Compression]
    longest_s: float = math.inf

    def of(self, row: int) -> WorkPlan:
        """The plan of one node; its deadline is no shorter than its predicted time, up to ``longest_s``."""
        level = self.levels[int(self.level[row])].name
        deadline_s = max(self.deadline_s, min(float(self.predicted_s[row]), self.longest_s))
        return WorkPlan(int(self.local_steps[row]), self.batch_size, level, deadline_s)

    def ratio(self, row: int) -> float:
        """The expected compression ratio of one node's updates."""
        return self.levels[int(self.level[row])].expected_ratio


class Planner(Protocol):
    """Plans all nodes' next round; ``deadline_s`` 0 leaves the deadline to the planner."""

    def __call__(
        self,
        fleet: Fleet,
        workload: Workload,
        levels: Sequence[Compression],
        *,
        deadline_s: float = 0.0,
        down_ratio: float | None = None,
    ) -> FleetPlan:
        """Plans of all nodes of ``fleet``.

        ``levels`` run from fattest to thinnest. ``down_ratio`` is the compression ratio of all downloads; if it is not
        given, downloads are compressed like uploads, apart from the common bytes.
        """
        ...


def thinned(levels: Sequence[Compression], name: str, keep: float) -> str:
    """The fattest level that sends no more than the share ``keep`` of what level ``name`` sends; else the thinnest."""
    ratio = next(level.expected_ratio for level in levels if level.name == name) / keep
    thin_enough = [level for level in levels if level.expected_ratio >= ratio * (1 - 1e-9)]
    return min(thin_enough, key=lambda level: level.expected_ratio, default=levels[-1]).name
