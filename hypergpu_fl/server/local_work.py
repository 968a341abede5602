"""How much a node trains per round and who decided it, as log lines and for the report."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from loguru import logger

from hypergpu_fl.config import Config
from hypergpu_fl.config.models import PLANNED
from hypergpu_fl.server.node_rounds import Row
from strategies.outcome import RoundOutcome
from strategies.planning import FEWEST_STEPS, MOST_STEPS
from strategies.prose import amount


class LocalWork:
    """Logs how many nodes work at a time and, after a process's first round, how much work each was given."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._told = False

    def tell_who(self) -> None:
        """Log how many nodes work at a time, and what decided it."""
        network, nodes = self._config.network, self._config.training.num_nodes
        working = min(nodes_at_work(self._config), nodes)
        logger.info(
            "{} of the run's {} {} at a time, {}; in its first round a node starts and loads the task",
            working,
            amount(nodes, "node"),
            "works" if working == 1 else "work",
            "as asked: network.cohort" if network.cohort else "half of all, rounded down; network.cohort sets it",
        )

    def closed(self, outcome: RoundOutcome) -> None:
        """Log the local work, once, after the first round in which any was ordered."""
        if self._told or not outcome.ordered:
            return
        self._told = True
        steps = [ordered.steps for ordered in outcome.ordered]
        fewest, most = min(steps), max(steps)
        logger.info(
            "local work in round {}: {} of up to {} a node, {}",
            outcome.round,
            amount(most, "step") if fewest == most else f"{fewest}-{amount(most, 'step')}",
            amount(self._config.training.batch_size, "sample"),
            decided_by(self._config),
        )


def nodes_at_work(config: Config) -> int:
    """Nodes that are asked to work at a time: ``network.cohort``, or half of all."""
    return config.network.cohort or max(1, config.training.num_nodes // 2)


def decided_by(config: Config) -> str:
    """Who decides a node's local steps under this configuration."""
    training, policy = config.training, config.network.policy
    if training.epochs:
        return f"as asked: training.epochs = {training.epochs} over its own data"
    if training.fixed_steps:
        return f"as asked: training.local_steps = {training.local_steps}"
    if policy not in PLANNED:
        return f"one pass over its own data, as policy {policy} does; training.local_steps or training.epochs set it"
    fewest, most = training.steps_within or (FEWEST_STEPS, MOST_STEPS)
    return f"planned within {fewest}-{most} each round; training.local_steps or training.epochs set it"


def summary(config: Config, rows: Sequence[Row]) -> dict[str, Any]:
    """For ``report.json``: who decided, and the fewest, the median and the most steps of all orders."""
    steps = [row["steps"] for row in rows]
    spread = {"fewest": min(steps), "median": median(steps), "most": max(steps)} if steps else None
    return {"decided_by": decided_by(config), "steps": spread, "batch_size": config.training.batch_size}
