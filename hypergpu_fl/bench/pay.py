"""Who is paid: honest nodes' pay compared with what they really brought, and a cheater's pay with honest nodes'."""

from __future__ import annotations

import contextlib
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
from loguru import logger

from hypergpu_fl.bench.attackers import AttackedTask
from hypergpu_fl.bench.exact_shapley import ExactValues
from hypergpu_fl.bench.in_process import InProcessGrid
from hypergpu_fl.bench.race import one_thread, quiet
from hypergpu_fl.bench.shipped import changed
from hypergpu_fl.config import Config, to_run_config
from hypergpu_fl.ledger.identity import derive_simulated_key
from hypergpu_fl.node.client_app import app
from hypergpu_fl.pricing import Scoring
from hypergpu_fl.server.pipeline import Pipeline
from hypergpu_fl.server.server_app import run
from hypergpu_fl.settlement import distribution, load_books
from strategies.model.layout import Layout
from strategies.outcome import Attendant

NODES: Final = 10
DATASETS: Final = ("digits", "mnist")
SCORINGS: Final = get_args(Scoring)
MODULE: Final = f"{AttackedTask.__module__}:{AttackedTask.__name__}"


def run_pay(
    *,
    dataset: str,
    data_root: str,
    scorings: Sequence[str],
    attacks: Sequence[str],
    seeds: Sequence[int],
    rounds: int,
    progress: Callable[[str], None],
) -> list[dict[str, Any]]:
    """One row for each run: `hypergpu run`'s server and nodes in this process, with compression and late updates.

    ``spearman`` is the rank correlation between the nodes' values, summed over the books, and their exact Shapley
    values; ``spearman_pay`` is that between what they earned and the exact values. Both are measured only without an
    attack. ``attacker_share_of_honest_mean`` is the attacker's pay divided by an honest node's mean pay.
    ``changed`` are the settings that differ from the shipped defaults.
    """
    rows = []
    for scoring, seed, attack in itertools.product(scorings, seeds, attacks):
        named = {"dataset": dataset, "scoring": scoring, "attack": attack, "seed": seed}
        rows.append(named | _row(_config(dataset, data_root, scoring, attack, seed, rounds), attack, seed))
        progress(json.dumps(rows[-1]))
    return rows


def _config(dataset: str, data_root: str, scoring: str, attack: str, seed: int, rounds: int) -> Config:
    """The demo's settings."""
    return Config.model_validate(
        {
            "training": {
                "task": MODULE,
                "options": {"attack": attack, "attacker": seed % NODES},
                "dataset": dataset,
                "data_root": data_root,
                "num_nodes": NODES,
                "rounds": rounds,
                "learning_rate": 0.3,
                "seed": seed,
            },
            "network": {"cohort": NODES, "sample_ms": 4},
            "blockchain": {"enabled": False, "scoring": scoring},
            "system": {"device": "cpu", "log_level": "ERROR", "log_file": ""},
        }
    )


def _row(config: Config, attack: str, seed: int) -> dict[str, Any]:
    watcher: list[ExactValues] = []

    def watched(own: Pipeline) -> Attendant[Any]:
        if attack != "none":
            return own
        task = AttackedTask(config.training)
        model = task.model()
        watcher.append(ExactValues(own, task, model, Layout.of(task.arrays(model))))
        return watcher[0]

    with tempfile.TemporaryDirectory(prefix="hypergpu-pay-") as root, quiet(), unlogged(), one_thread():
        folder = Path(root) / "run"
        folder.mkdir()
        system = config.system.model_copy(update={"runs_dir": root, "run_name": folder.name})
        config = config.model_copy(update={"system": system})
        grid = InProcessGrid(app, NODES, to_run_config(config), state_dir=Path(root) / "nodes")
        run(config, grid, folder, watched=watched)
        bundle = load_books(folder)
        accuracy = json.loads((folder / "report.json").read_text())["accuracy"]
    nodes = [derive_simulated_key(seed, partition).address for partition in range(NODES)]
    earned = np.array([distribution(bundle).cumulative.get(node, 0) for node in nodes], dtype=np.float64)
    attacker = seed % NODES if attack != "none" else -1
    honest = np.array([earned[node] for node in range(NODES) if node != attacker])
    values = {node: 0 for node in nodes}
    for record in bundle.rounds:
        priced = record.pricing.contributions if record.pricing else []
        for entry, price in zip(record.contributions, priced, strict=True):
            values[entry.node] += price.value
    exact = [watcher[0].values[node] for node in nodes] if watcher else None
    copies = sum(bool(entry.duplicate_of) for record in bundle.rounds for entry in record.contributions)
    return {
        "spearman": None if exact is None else rank_correlation(list(values.values()), exact),
        "spearman_pay": None if exact is None else rank_correlation(earned.tolist(), exact),
        "honest_unpaid": int((honest == 0).sum()),
        "paid_share": float(earned.sum() / (len(bundle.rounds) * bundle.session.budget)),
        "attacker_share_of_honest_mean": None if attacker < 0 else float(earned[attacker] / honest.mean()),
        "copies": copies,
        "accuracy": accuracy,
        "changed": changed(config),
    }


@contextlib.contextmanager
def unlogged() -> Iterator[None]:
    """Keep the server from logging its rounds."""
    logger.disable("hypergpu_fl")
    try:
        yield
    finally:
        logger.enable("hypergpu_fl")


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's rank correlation of values without ties."""
    ranks = [np.argsort(np.argsort(np.asarray(values))) for values in (one, other)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])
