"""``hypergpu watch``: follow a run in the terminal, whoever started it."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from hypergpu_fl.cli.options import Run, Runs
from hypergpu_fl.cli.place import folder_of
from hypergpu_fl.cli.render import Format
from hypergpu_fl.errors import Interrupted, RunFailed
from hypergpu_fl.output import to_json
from hypergpu_fl.runs import as_argument, elsewhere, resume_command, submitted_to
from strategies.prose import amount

if TYPE_CHECKING:
    from hypergpu_fl.dashboard.run_view import RunView

LOOK_S: Final = 0.5
_CUT_SHORT: Final = {"broken off": "broke off", "stopped": "was stopped"}
_OVER: Final = ("completed", "failed", *_CUT_SHORT)

app = typer.Typer(add_completion=False, help="Follow a run in the terminal.")


@app.command()
def watch(
    run: Run = "latest",
    once: Annotated[bool, typer.Option("--once", help="show what there is now, and end")] = False,
    format: Annotated[
        Format,
        typer.Option("--format", help="'default' for a screen or lines, 'json' for a JSON object a line and round"),
    ] = Format.DEFAULT,
    runs: Runs = None,
) -> None:
    """Follow a run until it ends or breaks off: one live screen on a terminal, elsewhere one line a round.

    Ctrl-C ends this command, not the run.

    Example: hypergpu watch latest
    """
    folder = folder_of(run, runs)
    if fault := elsewhere(folder):  # or it has just been sent, and will begin here
        typer.echo(f"warning: {fault.cause}; {fault.remedy}; or `hypergpu attach {as_argument(folder)}`", err=True)
    try:
        follow(folder, once=once, format=format, live=sys.stdout.isatty() and format is Format.DEFAULT and not once)
    except KeyboardInterrupt:
        typer.echo(f"no longer watching {folder.name}; the run is left alone", err=True)
        raise typer.Exit(Interrupted.exit_code) from None


def follow(folder: Path, *, once: bool, format: Format, live: bool) -> None:
    """Show a run until it ends, or once.

    Raises
    ------
    RunFailed
        If the run has failed, was stopped or was broken off.
    """
    from hypergpu_fl.dashboard.run_view import RunView

    view = RunView(folder)
    try:
        if live:
            from hypergpu_fl.cli.live import Screen

            with Screen(view) as screen:
                while view.summary()["state"] not in _OVER:
                    screen.draw()
                    time.sleep(LOOK_S)
        told = 0
        while True:
            view.poll(whole=once)
            told = _tell(view, told, format)
            summary = view.summary()
            if once or summary["state"] in _OVER:
                break
            time.sleep(LOOK_S)
    finally:
        view.close()
    if summary["state"] == "failed":
        raise RunFailed(f"run {folder.name} failed: {summary['failure']}", f"see {folder / 'run.log'}")
    if how := _CUT_SHORT.get(summary["state"]):
        cause = f"run {folder.name} {how} after {amount(summary['rounds'], 'round')}: nothing is at work on it"
        here = summary["clock"] == "virtual" or submitted_to(folder)
        there = f"where it was submitted, `hypergpu attach {folder.name}` goes on with it"
        raise RunFailed(cause, f"go on with `{resume_command(folder)}`" if here else there)


def _tell(view: RunView, told: int, format: Format) -> int:
    """Say the rounds after the first ``told``, and again those that resuming took back; returns how many are said."""
    from hypergpu_fl.dashboard.screen import line

    told, wanted = min(told, len(view.rounds)), view.summary()["rounds_wanted"]
    for row in view.rounds[told:]:
        typer.echo(to_json(row) if format is Format.JSON else line(row, wanted=wanted))
    return len(view.rounds)
