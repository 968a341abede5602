"""``hypergpu report`` and ``hypergpu compare``: runs as one HTML file to send."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from hypergpu_fl.cli.options import Run, Runs
from hypergpu_fl.cli.place import books_folder
from hypergpu_fl.cli.render import Format, FormatOption, render
from hypergpu_fl.errors import UsageError
from hypergpu_fl.files import write_whole
from strategies.prose import amount

app = typer.Typer(add_completion=False, help="A run as one HTML file to send.")
comparison = typer.Typer(add_completion=False, help="Several runs side by side, as one HTML file.")

MOST_RUNS = 6  # that a chart can tell apart


@app.command()
def report(
    run: Run = "latest",
    out: Annotated[
        Path | None, typer.Option(help="file to write; default: RUN-report.html in the current folder")
    ] = None,
    runs: Runs = None,
    format: FormatOption = Format.DEFAULT,
) -> None:
    """Write one HTML file that needs nothing else: curves, nodes, pay, bytes, settings, versions.

    It is written to the current folder, or where --out says, and its path is shown below the run's figures.

    Example: hypergpu report demo --out demo.html
    """
    _write([run], runs, out, format)


@comparison.command()
def compare(
    names: Annotated[list[str], typer.Argument(metavar="RUN RUN...", help="names or folders of two runs or more")],
    out: Annotated[Path | None, typer.Option(help="file to write too: curves, nodes and settings of all")] = None,
    runs: Runs = None,
    format: FormatOption = Format.DEFAULT,
) -> None:
    """Show the figures of several runs side by side; --out also writes one HTML file with their curves.

    Example: hypergpu compare demo digits-mlp-1 --out compared.html
    """
    if not 2 <= len(set(names)) <= MOST_RUNS:
        raise UsageError(
            f"{amount(len(set(names)), 'run')} cannot be compared", f"name 2 to {MOST_RUNS} different ones"
        )
    _write(names, runs, out, format, compared=True)


def _write(
    names: Sequence[str], runs: Path | None, out: Path | None, format: Format, *, compared: bool = False
) -> None:
    from hypergpu_fl.dashboard.report_page import Told, differs, figures, report_page, settings
    from hypergpu_fl.dashboard.run_view import RunView

    folders = [books_folder(name, runs) for name in names]
    if len(set(folders)) < len(folders):
        raise UsageError("the same run was named twice", "name each run once")
    told = []
    for name, folder in zip(names, folders, strict=True):
        view = RunView(folder)
        told.append(Told.of(view))
        view.close()
        if sum(other.name == folder.name for other in folders) > 1:
            told[-1] = replace(told[-1], run={**told[-1].run, "run": name})
    if out is None and not compared:
        out = Path.cwd() / f"{told[0].run['run']}-report.html"
    if out is not None:
        write_whole(out, report_page(told, written_s=time.time()))
    written = {"written": str(out)} if out is not None else {}
    if format is Format.JSON:
        render([dict(one.run) | written for one in told] if compared else dict(told[0].run) | written, format)
    elif compared:
        columns = {one.run["run"]: figures(one) for one in told}
        keys = list(dict.fromkeys(key for column in columns.values() for key in column))
        render([{"": key, **{run: column.get(key) for run, column in columns.items()}} for key in keys], format)
        if differing := [row for row in settings(told) if differs(row)]:
            render([dict(zip(("setting", *columns), row, strict=True)) for row in differing], format)
        else:
            typer.echo("no setting differs")
        if out is not None:
            typer.echo(f"written: {out}")
    else:
        render(figures(told[0]) | written, format)
