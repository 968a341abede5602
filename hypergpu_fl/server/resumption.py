"""Checkpoints after every round, and the way back from one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from hypergpu_fl.errors import CheckpointError
from hypergpu_fl.server.checkpoint import Checkpoint, load, save
from hypergpu_fl.server.report import Report
from strategies.engine import Engine
from strategies.errors import BadLine
from strategies.event_log import FILE, EventLog, Mark
from strategies.outcome import RoundOutcome

FOLDER = "checkpoints"


@dataclass
class Checkpointing:
    """Saves a round *before* the ledger books it, and keeps some earlier ones.

    A server that is killed between the two finds a checkpoint one round ahead of the books, and resumes from the one
    before; the other way round, the books would hold a round whose model is lost.
    """

    folder: Path
    strategy: Engine
    report: Report

    def closed(self, outcome: RoundOutcome, mark: Mark) -> None:
        """Save the round, with how far the log of events has come."""
        state, vectors = self.strategy.saved()
        arrays = self.strategy.layout.restore(outcome.average_P, outcome.buffers)
        everything = {
            "strategy": state,
            "history": self.report.history,
            "seconds": outcome.ended_s,
            "log": asdict(mark),
        }
        save(self.folder / FOLDER, Checkpoint(outcome.round, arrays, vectors, everything))


def resume(folder: Path, strategy: Engine, report: Report, *, last_round: int) -> tuple[float, EventLog]:
    """Put ``strategy``, its log and ``report`` back to where they were after ``last_round``, the newest in the books.

    Work that was under way is lost; its nodes are free. Returns the seconds on the run's clock, and the log.

    Raises
    ------
    CheckpointError
        If that round's checkpoint is missing, torn, or of another model, or the log is not the one it speaks of.
    """
    if last_round == 0:
        strategy.log = EventLog(folder / FILE, strategy.state.rules)
        return 0.0, strategy.log
    checkpoint = load(folder / FOLDER, last_round, layout=strategy.layout)
    state = checkpoint.state
    try:
        strategy.log = EventLog(folder / FILE, strategy.state.rules, after=Mark(**state["log"]))
        strategy.restore(state["strategy"], checkpoint.vectors, now_s=float(state["seconds"]), in_flight=False)
        report.history.extend(state["history"])
        return float(state["seconds"]), strategy.log
    except BadLine as error:
        raise CheckpointError(str(error), f"bring back the {FILE} of this run, or start the run anew") from error
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint {last_round} in {folder / FOLDER} is of another release: {error}", "start the run anew"
        ) from error
