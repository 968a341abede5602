"""How a run ended, as an error that says how to go on."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Final

import typer

from hypergpu_fl.cli.submission import COMPLETED, STOPPED, Submission
from hypergpu_fl.config import Training
from hypergpu_fl.errors import HyperGPUError, Interrupted, RunFailed, ServerDied
from hypergpu_fl.redaction import redact
from hypergpu_fl.runs import as_argument, resume_command, submitted_to
from strategies.failure import root_cause

# What Flower says when a ServerApp died instead of raising: nothing is wrong with the run itself.
LOST: Final = ("No heartbeat received from the task", "Task failed with unknown error")
# What an operating system says of a folder that takes no more, and what to do about it.
_NOT_WRITTEN: Final = {
    errno.ENOSPC: "make room where the run's folder lies",
    errno.EDQUOT: "make room where the run's folder lies",
    errno.EACCES: "let the run's folder be written again",
    errno.EROFS: "let the run's folder be written again",
}
_RAY_IS_LATE: Final = "timed out during startup"  # of the machine that Ray calls a node


def check_status(submission: Submission, status: str, details: str, folder: Path) -> None:
    """Raise how a run ended unless it is complete; Flower's log of one that failed is kept."""
    if status == COMPLETED:
        _check_report(folder)
        return
    if status == STOPPED:
        raise RunFailed(f"run {folder.name} was stopped", f"go on with `{resume_command(folder)}`")
    log = redact(submission.log())
    found = root_cause(log)
    cause, remedy = found or (details, "")
    kept = folder / "flower.log"
    try:
        kept.write_text(log, encoding="utf-8")
    except OSError as error:  # such as a full disk, which is then probably why the run failed
        remedy = remedy or f"{kept} could not be written either: {error.strerror}"
    if found is None and was_lost(details):
        raise died(folder)
    for number, first in _NOT_WRITTEN.items():
        if os.strerror(number) in cause and (number == errno.ENOSPC or str(folder) in cause):
            remedy = f"{first}; then {how_to_go_on(folder)}"
    if _RAY_IS_LATE in cause:
        remedy = f"let the machine do less meanwhile, which was too busy to start Ray; {how_to_go_on(folder)}"
    raise RunFailed(f"run {folder.name} ended as {status}: {cause}", remedy or f"see {kept}")


def _check_report(folder: Path) -> None:
    """Raise what the server has reported of a run that Flower calls completed.

    Flower takes a KeyboardInterrupt for a good end, though the task's own code may raise it.
    """
    try:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return  # on a deployment it is on the SuperLink's machine
    failure = report.get("failure")
    if report.get("status", "completed") != "completed":
        stopped = "was stopped by its own server, as by a KeyboardInterrupt in the task's code"
        raise RunFailed(f"run {folder.name} {f'failed: {failure}' if failure else stopped}", how_to_go_on(folder))


def was_lost(details: str) -> bool:
    """Whether Flower says of a run that its ServerApp died."""
    return any(words in details for words in LOST)


def died(folder: Path) -> ServerDied:
    """Error of a run whose server's process ended without a word."""
    return ServerDied(
        f"run {folder.name} failed: its server's process died without a word: killed, as where memory runs out, or "
        "ended by the task's own code",
        how_to_go_on(folder),
    )


def interrupted(folder: Path, stop: KeyboardInterrupt, *, goes_on: bool) -> Interrupted:
    """Error of a command that was told to stop. A deployed run ``goes_on`` unless Ctrl-C was typed, see `stoppable`."""
    if goes_on and stop.args:
        return Interrupted(
            f"{stop}; run {folder.name} goes on", f"find it again with `hypergpu attach {as_argument(folder)}`"
        )
    return Interrupted(f"run {folder.name} was stopped", how_to_go_on(folder))


def how_to_go_on(folder: Path) -> str:
    """The command that resumes a run, or starts it again."""
    checkpoints = folder / "checkpoints"  # of a run that was sent elsewhere, none need lie here
    if submitted_to(folder) or (checkpoints.is_dir() and any(checkpoints.iterdir())):
        return f"go on with `{resume_command(folder)}`"
    return f"no round was finished; start again with `hypergpu run --name {folder.name} --replace`"


def report_in_its_place(folder: Path, training: Training, *, failure: str | None = None) -> None:
    """Tell of the rounds that a simulation has finished whose processes ended before they could."""
    from hypergpu_fl.server.unfinished import report_unfinished

    try:
        rounds = report_unfinished(folder, training, failure=failure)
    except (HyperGPUError, OSError) as another:  # the caller's error, how the run ended, is the one to be shown
        typer.echo(f"no report tells of the finished rounds: {another}", err=True)
        return
    if rounds:
        typer.echo(f"report.json and nodes.csv in {folder} tell of the finished rounds: {rounds}", err=True)
