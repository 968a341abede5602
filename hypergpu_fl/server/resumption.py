"""Checkpoints after every round, and the way back from one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hypergpu_fl.config import Scalar, to_run_config
from hypergpu_fl.config.resuming import refused_changes, stretches_with
from hypergpu_fl.errors import CheckpointError, ConfigError
from hypergpu_fl.server.best import Aim, best_round
from hypergpu_fl.server.checkpoint import Best, Checkpoint, load, save, state_of
from hypergpu_fl.server.report import Report
from strategies.network_aware import NetworkAware
from strategies.round import RoundHook, RoundOutcome

FOLDER: Final = "checkpoints"


@dataclass
class Checkpointing(RoundHook):
    """Saves a round *before* the ledger books it, keeps the one before it, and the model that did best.

    A server that is killed between the two finds a checkpoint one round ahead of the books, and resumes from the one
    before; the other way round, the books would hold a round whose model is lost.
    """

    folder: Path
    strategy: NetworkAware
    report: Report
    aim: Aim
    best: Best | None = None

    def closed(self, outcome: RoundOutcome) -> None:
        """See ``RoundHook.closed``."""
        state, vectors = self.strategy.state()
        report = self.report
        everything = {
            "strategy": state,
            "history": report.history,
            "settings": to_run_config(report.config),
            "stretches": report.stretches,
            "seconds": outcome.ended_s,
        }
        if best_round(report.history, self.aim) == outcome.round:
            self.best = None
        checkpoint = Checkpoint(outcome.round, self.strategy.layout, vectors, everything, self.best)
        self.best = save(self.folder / FOLDER, checkpoint)


def check_unchanged(folder: Path, settings: dict[str, Scalar]) -> None:
    """Refuse to go on with a run under other settings than it was trained with; a new run passes.

    Raises
    ------
    ConfigError
        With a fault for each setting that was changed and may not be.
    """
    state = state_of(folder / FOLDER)
    if state is not None and (faults := refused_changes(state["settings"], settings)):
        raise ConfigError(faults)


def resume(
    folder: Path, strategy: NetworkAware, report: Report, *, settings: dict[str, Scalar], last_round: int
) -> tuple[float, Best | None]:
    """Put ``strategy`` and ``report`` back to where they were after ``last_round``, the newest in the books.

    Work that was under way is lost; its nodes are free. Returns the seconds on the run's clock, and the best model.

    Raises
    ------
    CheckpointError
        If that round's checkpoint is missing, torn, or of another model.
    """
    if last_round == 0:
        report.stretches = stretches_with([], settings, 1)
        return 0.0, None
    checkpoint = load(folder / FOLDER, last_round, layout=strategy.layout)
    state = checkpoint.state
    try:
        strategy.restore(state["strategy"], checkpoint.vectors, next_round=last_round + 1, in_flight=False)
        report.history.extend(state["history"])
        report.stretches = stretches_with(state["stretches"], settings, last_round + 1)
        return float(state["seconds"]), checkpoint.best
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint {last_round} in {folder / FOLDER} is of another release: {error}", "start the run anew"
        ) from error
