"""`hypergpu bench hostile`: ten nodes, three of them hostile, against the honest seven alone.

Each run is what `hypergpu run` does with its default settings, from task to books, on nodes in this process; a row's
``changed`` names the settings that differ: for some attacks the model, under a robust rule the rule and its codec. The
honest seven hold the same shares of the data in both runs, so the cost of the hostile three is the accuracy that is
missing to the honest run.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any, Final

import psutil
from flwr.app import Message
from loguru import logger

from hypergpu_fl.bench.attacks import ATTACKS, SIGN_FLIP, Attack, HostileLinks, HostileNode, twisted
from hypergpu_fl.bench.in_process import InProcessGrid
from hypergpu_fl.bench.race import one_thread, quiet
from hypergpu_fl.bench.shipped import changed
from hypergpu_fl.config import Config, to_run_config
from hypergpu_fl.ledger.identity import derive_simulated_key
from hypergpu_fl.node.client_app import app
from hypergpu_fl.node.local_task import local_task
from hypergpu_fl.server.server_app import run
from strategies.event_log import FILE
from strategies.round.lines import read_line

NODES: Final = 10
HOSTILE: Final = range(7, 10)  # shares of the data that hostile nodes hold
LAST: Final = 0.1  # share of a run's rounds over which accuracies are averaged
MEBIBYTE: Final = 2**20
SHORT_BY: Final = 0.01  # how far the accuracy may be below the honest run's
OVER_SHARE: Final = 1.5  # how many times its fair share a hostile node may weigh
GROWTH_MIB: Final = 256.0
OVERTIME_S: Final = 5.0
FLIPPED_UNDER: Final = {  # what each rule is run with: medians need a dense level
    "mean": "auto",
    "norm_clipping": "auto",
    "krum": "auto",
    "trimmed_mean": "int8",
    "median": "int8",
}

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class HostileResult:
    """Result of a run.

    ``weights`` are each node's mean weight in a round, ``largest`` the largest that it had in one. ``growth_mib`` is
    how much the process grew at its peak; None if the system does not say. ``longest_s`` is the longest round,
    ``deadline_s`` the longest that a round was allowed.
    """

    completed: bool
    accuracy: float
    weights: Mapping[str, float]
    largest: Mapping[str, float]
    growth_mib: float | None
    longest_s: float
    deadline_s: float


class MixedGrid(InProcessGrid):
    """Nodes in this process, some of which are hostile, or absent if there is no attack."""

    def __init__(self, config: Config, *, attack: Attack | None, state_dir: Path) -> None:
        super().__init__(app, NODES, to_run_config(config), state_dir=state_dir)
        self._attack = attack
        layout = local_task(config).layout
        self.hostile = {
            share + 1: HostileNode(number, derive_simulated_key(config.training.seed, share), layout)
            for number, share in enumerate(HOSTILE)
        }
        for number in range(attack.more_ids if attack else 0):
            for node_id in [share + 1 for share in HOSTILE]:
                further = node_id + NODES * (number + 1)
                self._contexts[further] = replace(self._contexts[node_id], node_id=further)
                self.hostile[further] = self.hostile[node_id]

    def get_node_ids(self) -> Iterable[int]:
        """Ids of the nodes that are there."""
        return [i for i in super().get_node_ids() if self._attack is not None or i not in self.hostile]

    def _answer(self, message: Message) -> Message:
        answer = super()._answer(message)
        node = self.hostile.get(message.metadata.dst_node_id)
        return twisted(node, self._attack, message, answer) if node is not None and self._attack else answer


def run_hostile(
    *,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    attacks: Sequence[Attack] = (*ATTACKS, SIGN_FLIP),
    changes: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> list[Row]:
    """One row for each attack, rule and seed; after each attack's seeds, a row with their medians and what was missed.

    Parameters
    ----------
    seeds : sequence of int
        Seeds of data split, links and training.
    attacks : sequence of Attack
        A sign flip is run under each aggregation rule, all others under the default rule.
    changes : mapping
        Changes to ``training``, for shorter runs.
    progress : callable
        Called with a line for each run.
    """
    honest: dict[tuple[Any, ...], HostileResult] = {}
    rows: list[Row] = []
    first = _config(ATTACKS[0], "mean", "auto", 0, {"rounds": 1})
    play(first, None)  # imports here, so that they count as nobody's growth
    for attack in attacks:
        for rule, codec in FLIPPED_UNDER.items() if attack is SIGN_FLIP else [("mean", "auto")]:
            found = []
            for seed in seeds:
                config = _config(attack, rule, codec, seed, changes or {})
                key = attack.architecture, *attack.network.items(), rule, codec, seed
                if key not in honest:
                    honest[key] = play(config, None)
                    progress(f"honest seven, {rule}, seed {seed}: accuracy {honest[key].accuracy:.3f}")
                result = play(config, attack)
                found.append(_row(attack, config, result, honest[key], fair_shares(config)))
                progress(f"{attack.name}, {rule}, seed {seed}: {found[-1]}")
            rows += [*found, _median(found)]
    return rows


def play(config: Config, attack: Attack | None) -> HostileResult:
    """Run once, with the hostile three or without them."""
    with tempfile.TemporaryDirectory(prefix="hypergpu-bench-") as scratch, quiet(), _silent(), one_thread():
        folder = Path(scratch) / "run"
        folder.mkdir()
        grid = MixedGrid(config, attack=attack, state_dir=Path(scratch) / "nodes")
        hostile = frozenset(grid.hostile)
        with _peak() as grown:
            try:
                run(
                    config,
                    grid,
                    folder,
                    through=lambda links: HostileLinks(links, attack, hostile) if attack else links,
                )
            except Exception as error:  # a run that hostile nodes end is a result, too
                logger.warning("the run ended: {}: {}", type(error).__name__, error)
        return _result(folder, config.training.rounds, grown())


def fair_shares(config: Config) -> dict[str, float]:
    """Each node's fair share of weight, by its name: its share of the data, or an even share if that is more.

    A small node that claims to be an ordinary one cannot be told from the truth, so an even share is fair for it.
    """
    task = local_task(config).task
    examples = [task.examples(share) for share in range(NODES)]
    return {f"node-{share}": max(1 / NODES, count / sum(examples)) for share, count in enumerate(examples)}


def _config(attack: Attack, rule: str, codec: str, seed: int, changes: Mapping[str, Any]) -> Config:
    return Config.model_validate(
        {
            "training": {
                "num_nodes": NODES,
                "seed": seed,
                "model_architecture": attack.architecture,
                "aggregation": rule,
                **changes,
            },
            "network": {"codec": codec, **attack.network},
            "system": {"run_name": "hostile", "device": "cpu"},
        }
    )


def _result(folder: Path, rounds: int, growth_mib: float | None) -> HostileResult:
    report = folder / "report.json"
    closed = list(rounds_of(folder / FILE))
    longest_s = max((each["ended_s"] - each["started_s"] for each in closed), default=0.0)
    deadline_s = max((each["deadline_s"] for each in closed), default=0.0)
    if not report.is_file():
        return HostileResult(False, 0.0, {}, {}, growth_mib, longest_s, deadline_s)
    document = json.loads(report.read_text())
    history = document["history"]
    weights: dict[str, float] = {}
    largest: dict[str, float] = {}
    for entry in history:
        here: dict[str, float] = {}
        for row in entry["nodes"]:
            here[row["node"]] = here.get(row["node"], 0.0) + (row["weight"] or 0.0)
        for node, weight in here.items():
            weights[node] = weights.get(node, 0.0) + weight
            largest[node] = max(largest.get(node, 0.0), weight)
    counted = max(1, sum(entry["arrived"] > 0 for entry in history))
    last = history[-max(1, round(LAST * len(history))) :]
    return HostileResult(
        document["status"] == "completed" and len(history) == rounds,
        fmean(entry["accuracy"] for entry in last),
        {node: weight / counted for node, weight in weights.items()},
        largest,
        growth_mib,
        longest_s,
        deadline_s,
    )


def rounds_of(log: Path) -> Iterator[dict[str, Any]]:
    """The command that closed each round of an event log, with the ``deadline_s`` that the round was opened with."""
    deadline_s = math.inf
    for text in log.read_bytes().splitlines() if log.is_file() else ():
        for command in read_line(text, "").commands:
            if command["kind"] == "open":
                deadline_s = command.get("deadline_s", math.inf)
            elif command["kind"] == "close":
                yield {**command, "deadline_s": deadline_s}


def _row(
    attack: Attack, config: Config, result: HostileResult, honest: HostileResult, fair: Mapping[str, float]
) -> Row:
    hostile = [f"node-{share}" for share in HOSTILE]
    worst = max(hostile, key=lambda node: result.weights.get(node, 0.0) / fair[node])
    growth = None if result.growth_mib is None or honest.growth_mib is None else result.growth_mib - honest.growth_mib
    return {
        "attack": attack.name,
        "point": attack.point,
        "aggregation": config.training.aggregation,
        "seed": config.training.seed,
        "completed": result.completed,
        "final_accuracy": result.accuracy,
        "honest7_accuracy": honest.accuracy,
        "weight_share": result.weights.get(worst, 0.0),
        "fair_share": fair[worst],
        "largest_in_a_round": max(result.largest.get(node, 0.0) for node in hostile),
        "hostile_weight": sum(result.weights.get(node, 0.0) for node in hostile),
        "growth_mib": growth,
        # hostile nodes may have a say in their own run's deadline, but not in this one
        "overtime_s": max(0.0, result.longest_s - honest.deadline_s),
        "longest_round_s": result.longest_s,
        "honest7_longest_s": honest.longest_s,
        "changed": changed(config),
    }


def _median(rows: Sequence[Row]) -> Row:
    """The row of all seeds, which ``missed`` judges: medians, except for bounds that must hold in every run."""
    growths = [row["growth_mib"] for row in rows if row["growth_mib"] is not None]
    worst = max(rows, key=lambda row: row["weight_share"] / row["fair_share"])
    accuracy, honest = (median(row[name] for row in rows) for name in ("final_accuracy", "honest7_accuracy"))
    merged = rows[0] | {
        "seed": None,
        "completed": all(row["completed"] for row in rows),
        "final_accuracy": accuracy,
        "honest7_accuracy": honest,
        "weight_share": worst["weight_share"],
        "fair_share": worst["fair_share"],
        "growth_mib": max(growths, default=None),
        **{
            name: max(row[name] for row in rows)
            for name in ("largest_in_a_round", "hostile_weight", "overtime_s", "longest_round_s", "honest7_longest_s")
        },
    }
    return merged | {"missed": ", ".join(missed(merged))}


def missed(row: Row) -> list[str]:
    """Names of the bounds that a row of medians does not keep."""
    bounds = {
        "completed": row["completed"],
        "final_accuracy": row["final_accuracy"] >= row["honest7_accuracy"] - SHORT_BY,
        "weight_share": row["weight_share"] <= OVER_SHARE * row["fair_share"],
        "growth_mib": row["growth_mib"] is None or row["growth_mib"] <= GROWTH_MIB,
        "overtime_s": row["overtime_s"] <= OVERTIME_S,
    }
    return [name for name, kept in bounds.items() if not kept]


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep a run from logging its rounds."""
    logger.disable("hypergpu_fl.server")
    try:
        yield
    finally:
        logger.enable("hypergpu_fl.server")


@contextlib.contextmanager
def _peak() -> Iterator[Callable[[], float | None]]:
    """Yields a function that says, after the block, by how many MiB the process grew at its peak; None without Linux.

    The nodes live in this process too, so memory that a hostile node needs for itself counts as growth.
    """
    before, reset = psutil.Process().memory_info().rss, Path("/proc/self/clear_refs")
    with contextlib.suppress(OSError):  # not every system has it
        reset.write_text("5")  # proc(5): resets the peak
    grown: list[float | None] = []
    try:
        yield lambda: grown[0]
    finally:
        grown.append(_peak_mib(before))


def _peak_mib(before: int) -> float | None:
    try:
        status = Path(f"/proc/{os.getpid()}/status").read_text()
    except OSError:
        return None
    kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
    return (1024 * kib - before) / MEBIBYTE
