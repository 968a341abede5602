"""``hypergpu attach``: find a deployed run again, and follow it to its end."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from hypergpu_fl.cli.bundle import app_with_task
from hypergpu_fl.cli.connections import require_connection
from hypergpu_fl.cli.deployed import NewestRound, find, follow_log, hand_in
from hypergpu_fl.cli.endings import check_status, interrupted
from hypergpu_fl.cli.options import Runs, root_of
from hypergpu_fl.cli.place import folder_of
from hypergpu_fl.cli.render import Format, FormatOption
from hypergpu_fl.cli.resuming import layers_of
from hypergpu_fl.cli.run import locked, show_result, stoppable
from hypergpu_fl.cli.submission import Submission, app_folder
from hypergpu_fl.cli.superlink import flower_environment
from hypergpu_fl.config import environment, load, read_secrets
from hypergpu_fl.errors import Interrupted, UsageError
from hypergpu_fl.output import printable
from hypergpu_fl.redaction import redact
from hypergpu_fl.runs import as_argument, open_run_folder, run_names

app = typer.Typer(add_completion=False, help="Find a run on a SuperLink again, and follow it to its end.")


@app.command()
def attach(
    run: Annotated[
        str,
        typer.Argument(metavar="RUN", help="name or folder of a run submitted from here, or Flower's id of any"),
    ] = "latest",
    superlink: Annotated[
        str,
        typer.Option(metavar="NAME", help="a connection in Flower's config; default: the one it was submitted over"),
    ] = "",
    runs: Runs = None,
    app_dir: Annotated[Path | None, typer.Option("--app", help="folder of the Flower app; default: this one")] = None,
    format: FormatOption = Format.DEFAULT,
) -> None:
    """Find a run on a SuperLink again, after `hypergpu run --superlink` or its machine has ended, and follow it.

    RUN is looked for below this folder, as it was submitted from it; --runs names another place.

    A run whose ServerApp died is submitted again and goes on. Ctrl-C ends this command; the run goes on.

    Example: hypergpu attach digits-mlp-1
    """
    environ = environment(os.environ)
    read_secrets()
    root = root_of(runs)

    def say(text: str) -> None:
        typer.echo(printable(redact(text)), err=format is Format.JSON)

    newest = NewestRound(say)
    if superlink:
        require_connection(superlink, environ)

    if run.isdigit() and run not in run_names(root):
        if not superlink:
            raise UsageError(
                f"{run} is Flower's id of a run, but of which SuperLink?", "name its connection: --superlink"
            )
        folder, again = open_run_folder(root, f"attached-{run}"), None
        submission = Submission(run, superlink, flower_environment(environ))
    else:
        folder = folder_of(run, runs)
        submission = find(folder, environ, connection=superlink)

        def again() -> Submission:
            config = load(layers_of(folder, None), {"system.run_name": folder.name}).config
            with app_with_task(app_folder(app_dir), config.training) as bundled:
                return hand_in(config, bundled, submission.connection, folder, environ)

    say(f"run {folder.name}: Flower's {submission.run_id} on {submission.connection!r}")
    with stoppable(), locked(folder):
        try:
            check_status(*follow_log(submission, again, newest), folder)
        except KeyboardInterrupt as stop:
            if stop.args:
                raise interrupted(folder, stop, goes_on=True) from None
            found = f"`hypergpu attach {as_argument(folder)}` finds it again"
            typer.echo(f"no longer following {folder.name}; the run goes on, and {found}", err=True)
            raise typer.Exit(Interrupted.exit_code) from None
    show_result(folder, folder.name, format, newest=newest.line)
