"""What a run leaves for people and programs to read: ``report.json``, and one line a round on the terminal."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from loguru import logger

from hypergpu_fl.config import Config
from strategies.outcome import RoundOutcome

PACKAGES = ("flwr", "torch", "numpy", "web3")


@dataclass
class Report:
    """Collects rounds as they close.

    ``clock`` is "virtual" in simulation, where seconds are those of the simulated links, else "wall".
    """

    config: Config
    clock: str
    history: list[dict[str, Any]] = field(default_factory=list)

    def closed(self, outcome: RoundOutcome) -> None:
        """Add the round, as yet without its accuracy."""
        self.history.append(
            {
                "round": outcome.round,
                "seconds": outcome.ended_s,
                "accuracy": None,
                "loss": None,
                "selected": len(outcome.selected),
                "arrived": len(outcome.accepted),
                "late": outcome.late,
                "rejected": len(outcome.refused),
                "bytes_up": outcome.bytes_up,
                "bytes_down": outcome.bytes_down,
                "root": "",
                "tx": "",
                "block": None,
                "status": "unsealed",
            }
        )

    def evaluated(self, *, accuracy: float, loss: float) -> None:
        """Complete the newest round and say it in one line."""
        entry = self.history[-1]
        entry.update(accuracy=accuracy, loss=loss)
        logger.info(
            "round {:>3}/{}  accuracy {:.3f}  loss {:.4f}  {:>7.1f} s  "
            "{}/{} arrived  {} late  {} refused  {:.1f} kB up",
            entry["round"],
            self.config.training.rounds,
            accuracy,
            loss,
            entry["seconds"],
            entry["arrived"],
            entry["selected"],
            entry["late"],
            entry["rejected"],
            entry["bytes_up"] / 1e3,
        )

    def sealed(self, round_: int, **facts: Any) -> None:
        """Add what the ledger and the chain know of a round: ``root, tx, block, status``."""
        for entry in self.history:
            if entry["round"] == round_:
                entry.update(facts)

    def document(self, *, nodes: int, chain: dict[str, Any], max_abs_drift: float) -> dict[str, Any]:
        """The whole of ``report.json``."""
        last = self.history[-1] if self.history else {}
        training = self.config.training
        return {
            "run": self.config.system.run_name,
            "dataset": training.dataset,
            "model": training.model_architecture,
            "nodes": nodes,
            "rounds": len(self.history),
            "seed": training.seed,
            "clock": self.clock,
            "seconds": last.get("seconds", 0.0),
            "bytes_up": sum(entry["bytes_up"] for entry in self.history),
            "bytes_down": sum(entry["bytes_down"] for entry in self.history),
            "accuracy": last.get("accuracy"),
            "loss": last.get("loss"),
            "history": self.history,
            "chain": chain,
            "weights": {"max_abs_drift": max_abs_drift},
            "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        }


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write atomically: a reader sees the old document or the new one."""
    fresh = path.with_suffix(".tmp")
    with fresh.open("w", encoding="utf-8") as file:
        json.dump(document, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
