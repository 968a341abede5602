"""What people and programs read of a run: ``report.json``, and one line per round on the terminal."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from loguru import logger

from hypergpu_fl.config import Config
from hypergpu_fl.config.resuming import Stretch, numbered
from hypergpu_fl.files import write_whole
from hypergpu_fl.output import of_those_asked, to_json
from hypergpu_fl.server.local_work import summary
from hypergpu_fl.server.node_rounds import Row, by_round
from hypergpu_fl.server.simulated_compute import SimulatedCompute
from strategies.errors import Reason
from strategies.outcome import RoundOutcome

MENTIONED_FROM_S = 5.0  # of time left
PACKAGES = ("flwr", "torch", "numpy", "web3")


@dataclass
class Report:
    """Collects rounds as they close.

    ``clock`` is "virtual" in simulation, where seconds are those of the simulated links, else "wall"; ``unit`` is what
    the task counts. ``stretches``: see `hypergpu_fl.config.resuming`.
    """

    config: Config
    clock: str
    unit: str
    history: list[dict[str, Any]] = field(default_factory=list)
    stretches: list[Stretch] = field(default_factory=list)
    _ended_s: list[float] = field(default_factory=list)

    def closed(self, outcome: RoundOutcome, *, kept: bool) -> None:
        """Add the round, and whether it made a model that was ``kept``; `evaluated` completes it."""
        self.history.append(
            {
                "round": outcome.round,
                "seconds": outcome.ended_s,
                "accuracy": None,
                "loss": None,
                "metrics": {},
                "selected": len(outcome.selected),
                "arrived": len(outcome.accepted),
                "late": outcome.late,
                "rejected": sum(reply.reason is not Reason.LEFT for reply in outcome.refused),
                "kept": kept,
                "bytes_up": outcome.bytes_up,
                "bytes_down": outcome.bytes_down,
                "root": "",
                "tx": "",
                "block": None,
                "status": "unsealed",
            }
        )

    def evaluated(self, loss: float, metrics: Mapping[str, float]) -> None:
        """Add what was measured to the newest round, and log the round as one line."""
        entry = self.history[-1]
        self._ended_s.append(time.monotonic())
        entry.update(accuracy=metrics.get("accuracy"), loss=loss, metrics=dict(metrics))
        logger.info(
            "round {:>3}/{}  {}loss {:.4f}  {:>7.1f} s  {} arrived  {} late  {} refused  {:.1f} kB up{}",
            entry["round"],
            self.config.training.rounds,
            "".join(f"{name} {value:.3f}  " for name, value in metrics.items()),
            loss,
            entry["seconds"],
            of_those_asked(entry["arrived"], entry["selected"]),
            entry["late"],
            entry["rejected"],
            entry["bytes_up"] / 1e3,
            _left(self._ended_s, self.config.training.rounds - entry["round"]),
        )

    def sealed(self, round: int, **facts: Any) -> None:
        """Add what the ledger and the chain know of a round: ``root, tx, block, status``."""
        for entry in self.history:
            if entry["round"] == round:
                entry.update(facts)

    def document(
        self,
        *,
        nodes: int,
        chain: dict[str, Any],
        max_abs_drift: float,
        unfit: Mapping[str, str],
        rows: Sequence[Row] = (),
        status: str,
        failure: str | None = None,
        untrained_loss: float | None = None,
        warning: str | None = None,
        compute: SimulatedCompute | None = None,
    ) -> dict[str, Any]:
        """The whole of ``report.json``.

        ``unfit`` is why nodes could not take part, ``rows`` what each node did in each round, ``status`` "completed",
        "failed" (``failure`` says why) or "stopped", ``untrained_loss`` the first model's loss, ``warning`` a caveat
        about a completed run, ``compute`` how a simulated node's seconds were derived.
        """
        nodes_of = by_round(rows)
        last = self.history[-1] if self.history else {}
        training = self.config.training
        return {
            "run": self.config.system.run_name,
            "status": status,
            "failure": failure,
            "warning": warning,
            "dataset": None if training.task else training.dataset,
            "model": training.task or training.model_architecture,
            "nodes": nodes,
            "rounds": len(self.history),
            "seed": training.seed,
            "clock": self.clock,
            "seconds": last.get("seconds", 0.0),
            "bytes_up": sum(entry["bytes_up"] for entry in self.history),
            "bytes_down": sum(entry["bytes_down"] for entry in self.history),
            "accuracy": last.get("accuracy"),
            "loss": last.get("loss"),
            "untrained_loss": untrained_loss,
            "metrics": last.get("metrics", {}),
            "unit": self.unit,
            "unfit": unfit,
            "local_work": summary(self.config, rows),
            "simulated_compute": compute and compute.document(),
            "history": [{**entry, "nodes": nodes_of.get(entry["round"], [])} for entry in self.history],
            "stretches": numbered(self.stretches, len(self.history)),
            "chain": chain,
            "weights": {"max_abs_drift": max_abs_drift},
            "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        }


def _left(ended_s: Sequence[float], rounds: int) -> str:
    """How long ``rounds`` more rounds will take, by the mean of this process's rounds without the first (start-up)."""
    if len(ended_s) < 2:
        return ""
    left_s = rounds * (ended_s[-1] - ended_s[0]) / (len(ended_s) - 1)
    if left_s < MENTIONED_FROM_S:
        return ""
    return f"  {left_s:.0f} s left" if left_s < 120 else f"  {left_s / 60:.0f} min left"


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write atomically: a reader sees the old document or the new one."""
    write_whole(path, to_json(document, indent=1) + "\n")
