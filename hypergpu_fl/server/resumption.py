"""Writes a checkpoint after every round, and resumes a run from one."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from loguru import logger

from hypergpu_fl.config import Config, Scalar, to_run_config, unflatten
from hypergpu_fl.config.resuming import BEGUN, kept_settings, refused_changes, stretches_with, task_file_at_the_end
from hypergpu_fl.errors import BooksDamaged, CheckpointError, ConfigError
from hypergpu_fl.files import write_whole
from hypergpu_fl.server.best import Aim, best_round
from hypergpu_fl.server.checkpoint import Best, Checkpoint, load, save, state_of
from hypergpu_fl.server.enrolment import differences
from hypergpu_fl.server.report import Report
from hypergpu_fl.settlement.reading import DATABASE
from strategies.engine import Engine
from strategies.errors import BadLine
from strategies.event_log import FILE, EventLog, Mark
from strategies.model.global_model import GOOD
from strategies.model.layout import Layout
from strategies.outcome import RoundOutcome
from strategies.prose import amount

FOLDER: Final = "checkpoints"


@dataclass
class Checkpointing:
    """Saves each round *before* the ledger books it, and keeps the round before and the best model.

    `hypergpu_fl.server.pipeline` says why in this order.
    """

    folder: Path
    strategy: Engine
    report: Report
    identity: Mapping[str, str]
    aim: Aim
    best: Best | None = None

    def closed(self, outcome: RoundOutcome, mark: Mark) -> None:
        """Save the round, with the position that the event log has reached.

        Raises
        ------
        CheckpointError
            If books or log are no longer in the folder. Writes to the open files would succeed and be lost at the end.
        """
        if removed := [name for name in (DATABASE, FILE) if not (self.folder / name).exists()]:
            raise CheckpointError(
                f"{removed[0]} was removed from {self.folder} while the run went on",
                f"leave a run's folder as it is; start anew with `hypergpu run --name {self.folder.name} --replace`",
            )
        state, vectors = self.strategy.saved()
        report = self.report
        everything = {
            "strategy": state,
            "history": report.history,
            "settings": to_run_config(report.config),
            "stretches": report.stretches,
            "unit": report.unit,
            "unfit": self.strategy.roster.excuses(),
            "identity": dict(self.identity),
            "seconds": outcome.ended_s,
            "log": asdict(mark),
        }
        # The aim may be another than a former stretch had, whose best by it was not kept.
        known = [
            entry for entry in report.history if self.best and entry["round"] in (self.best.version, outcome.round)
        ]
        if best_round(known, self.aim) == outcome.round:
            self.best = None
        checkpoint = Checkpoint(outcome.round, self.strategy.layout, vectors, everything, self.best)
        self.best = save(self.folder / FOLDER, checkpoint)


def keep_settings(folder: Path, config: Config) -> None:
    """Write what a run began with, for those who look at it, where the command that sent it here writes elsewhere."""
    if not (folder / BEGUN).exists():
        write_whole(folder / BEGUN, json.dumps(unflatten(kept_settings(config)), indent=1) + "\n")


def check_unchanged(folder: Path, settings: dict[str, Scalar]) -> None:
    """Refuse to resume a run under other settings than it was trained with; a new run passes.

    Raises
    ------
    ConfigError
        With a fault for each setting that was changed and may not be.
    """
    state = state_of(folder / FOLDER)
    if state is not None and (faults := refused_changes(state["settings"], settings)):
        raise ConfigError(faults)


def check_books(folder: Path, sealed: int) -> None:
    """Refuse books of so many rounds if the checkpoint has more than the one that may not be sealed yet.

    Raises
    ------
    BooksDamaged
        With both numbers.
    """
    saved = len((state_of(folder / FOLDER) or {"history": ()})["history"])
    if saved > sealed + 1:
        raise BooksDamaged(
            f"{folder / DATABASE} has {amount(sealed, 'round')}, the checkpoint beside it {saved}",
            f"bring {DATABASE} back from a copy; the checkpoint can still be exported",
        )


def check_same_task(folder: Path, identity: Mapping[str, str]) -> None:
    """Refuse to go on with a run with another task than trained it; a new run passes.

    ``identity`` is that of `hypergpu_fl.task.full_identity`.

    Raises
    ------
    CheckpointError
        If they differ, with both of what differs.
    """
    state = state_of(folder / FOLDER) or {}
    if changed := differences(identity, state.get("identity", identity), here="now", there="before"):
        raise CheckpointError(
            f"the task is not the one that trained run {folder.name} so far: {changed}",
            "bring back what it was, or start a run of another name",
        )


def resume(
    folder: Path, strategy: Engine, report: Report, *, settings: dict[str, Scalar], task_file: str, last_round: int
) -> tuple[float, EventLog, Best | None]:
    """Put ``strategy``, its log and ``report`` back to where they were after ``last_round``, the newest in the books.

    Work that was under way is lost; its nodes are free. If that round's model is torn, the round stays booked and the
    next round begins by rolling back to the model before it. ``task_file`` is the digest of the user's own code, empty
    where there is none; a changed one is told. Returns the seconds on the run's clock, the log, and the best model.

    Raises
    ------
    CheckpointError
        If that round's checkpoint is missing, torn, or of another model, or its log is not the one in the folder.
    """
    if last_round == 0:
        report.stretches = stretches_with([], settings, 1, task_file)
        strategy.log = EventLog(folder / FILE, strategy.state.rules)
        return 0.0, strategy.log, None
    try:
        checkpoint = load(folder / FOLDER, last_round, layout=strategy.layout)
    except CheckpointError as torn:
        checkpoint = _before(folder / FOLDER, last_round, strategy.layout, torn)
    state = checkpoint.state
    try:
        strategy.log = EventLog(folder / FILE, strategy.state.rules, after=Mark(**state["log"]))
        strategy.restore(state["strategy"], checkpoint.vectors, now_s=float(state["seconds"]), in_flight=False)
        report.history.extend(state["history"])
        report.stretches = stretches_with(state["stretches"], settings, last_round + 1, task_file)
        if task_file_at_the_end(state["stretches"]) not in ("", task_file):
            logger.warning(
                "the code of {} has changed: from round {} on it trains as it is now",
                report.config.training.task,
                last_round + 1,
            )
        return float(state["seconds"]), strategy.log, checkpoint.best
    except BadLine as error:
        raise CheckpointError(str(error), f"bring back the {FILE} of this run, or start the run anew") from error
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint {last_round} in {folder / FOLDER} is of another release: {error}", "start the run anew"
        ) from error


def _before(folder: Path, version: int, layout: Layout, torn: CheckpointError) -> Checkpoint:
    """The checkpoint without its torn model: the good model from before that round takes its place."""
    with contextlib.suppress(CheckpointError):  # the good model is torn, too; the error below tells of the first one
        found = load(folder, version, layout=layout, groups=GOOD)
        if found.vectors:
            logger.warning("{}; round {} is rolled back to the model before it", torn.cause, version)
            best = found.best if found.best and found.best.version < version else None
            return replace(found, best=best)
    raise CheckpointError(torn.cause, "bring it back from a copy, or start the run anew") from torn
