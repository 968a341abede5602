"""How rounds are run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from strategies.errors import UnknownPolicy
from strategies.fleet import Ints
from strategies.planning import FEWEST_STEPS, MOST_STEPS, Compression


@dataclass(frozen=True, slots=True)
class Settings:
    """How rounds are run.

    Attributes
    ----------
    cohort : int
        Nodes at work.
    quota : float
        In (0, 1]: share of the cohort whose replies end a round, unless the policy says otherwise.
    deadline_s : float
        Longest round; 0: adapts by itself.
    mode : {"sync", "async"}
        Rounds with a barrier, or buffered asynchronous: nodes restart at once.
    epochs, batch_size : int
        Passes over its own data that every node is asked to make, in batches of this size; 0: not asked for.
    local_steps : int
        Steps that every node is asked to make; 0: not asked for.
    steps_within : (int, int)
        Fewest and most steps that a planner may choose where nothing is asked for.
    baseline_epochs : int
        Passes that a policy without a planner makes where nothing is asked for.
    codec, downlink_codec : str
        One level for every node, or ``auto``: the planner chooses, the same level both ways.
    normalise_steps : bool
        Whether updates are normalised by their local steps, as FedNova does, or plainly averaged, as FedAvg does.
    averaging : bool
        Whether an average of the versions is evaluated and kept, see ``GlobalModel``, or the latest version.
    keep_late : bool
        Whether a reply that missed its round joins a later one.
    aggregation : str
        A name in ``strategies.model.robust.AGGREGATORS``; all but ``mean`` hold every update of the round.
    exclude_failing : bool
        Whether nodes that fail repeatedly are excluded for a while, see ``strategies.fleet.health``.
    refuse_outliers : bool
        Whether an update that is longer than the others' is shortened, and one far longer refused. Under a policy that
        prefers few nodes, the others' look unusual.
    max_examples : int
        A node's data count for no more examples than this.
    examples : {"bounded", "claimed"}
        Whether a claim is bounded by the other nodes' claims, see ``Fleet.agree``, or believed as it is.
    seed : int
        The only source of randomness.
    session : bytes
        32 bytes that signed contributions are bound to.
    reply_patience : float
        A message lives this many deadlines.
    overhead_s : float
        Assumed seconds of a message besides work and transfer, until they are observed. 0 on a virtual clock; on the
        wall clock Flower polls for each message and starts a Python process.
    byte_scale : float
        Bytes that one byte of the model stands for, if a small model stands for a large one.
    """

    cohort: int
    quota: float = 0.8
    deadline_s: float = 0.0
    mode: Literal["sync", "async"] = "async"
    epochs: int = 0
    batch_size: int = 32
    local_steps: int = 0
    steps_within: tuple[int, int] = (FEWEST_STEPS, MOST_STEPS)
    baseline_epochs: int = 1
    codec: str = "auto"
    downlink_codec: str = "auto"
    normalise_steps: bool = True
    averaging: bool = False
    keep_late: bool = True
    aggregation: str = "mean"
    exclude_failing: bool = True
    refuse_outliers: bool = True
    max_examples: int = 10**6
    examples: Literal["bounded", "claimed"] = "bounded"
    seed: int = 0
    session: bytes = bytes(32)
    reply_patience: float = 10.0
    overhead_s: float = 0.0
    byte_scale: float = 1.0

    @property
    def asks_work(self) -> bool:
        """Whether the configuration fixes the local work, so that neither planner nor policy may choose it."""
        return bool(self.local_steps or self.epochs)

    def base_steps(self, examples: Ints) -> Ints:
        """Steps of each node, shape of ``examples``: those asked for, else the baseline's.

        ``epochs`` passes take ``ceil(epochs * examples / batch)`` steps, since batches may span two passes. The
        baseline cuts each pass separately.
        """
        if self.local_steps:
            return np.full_like(examples, self.local_steps)
        if self.epochs:
            batch: Ints = np.clip(examples, 1, self.batch_size)
            whole: Ints = -(-examples * self.epochs // batch)
            return np.maximum(1, whole)
        return np.maximum(1, -(-examples // self.batch_size)) * self.baseline_epochs

    def check_levels(self, levels: Sequence[Compression]) -> None:
        """Raise ``UnknownPolicy`` if a codec is none of ``levels``, and not ``auto``."""
        names = [level.name for level in levels]
        for name in (self.codec, self.downlink_codec):
            if name != "auto" and name not in names:
                raise UnknownPolicy(f"no codec level {name!r}; there are {', '.join(names)}, and 'auto'")
