"""``hypergpu replay``: every decision of a run taken again from its log, and held against what was done."""

from __future__ import annotations

from typing import Annotated

import typer

from hypergpu_fl.cli.options import Run, Runs, root_of
from hypergpu_fl.cli.render import Format, FormatOption, render
from hypergpu_fl.errors import RunNotFound, VerificationError
from hypergpu_fl.runs import find_books

app = typer.Typer(add_completion=False, help="Decide a run's rounds again from its log, and compare.")


@app.command()
def replay(
    run: Run = "latest",
    upto: Annotated[int | None, typer.Option(metavar="ROUND", min=0, help="stop when this round is closed")] = None,
    runs: Runs = None,
    format: FormatOption = Format.DEFAULT,
) -> None:
    """Fold the log of a run again. Non-zero, and the first command that differs, if the rules give another one.

    Example: hypergpu replay latest --upto 10
    """
    from strategies.errors import BadLine
    from strategies.event_log import FILE
    from strategies.round.lines import LONGEST_LINE
    from strategies.round.replay import replay as fold

    folder = find_books(root_of(runs), run)
    if not (folder / FILE).is_file():
        raise RunNotFound(f"{folder.name} has no {FILE}", "it was made before runs kept one; start a new run")
    remedy = f"{FILE} was changed after it was written, or by another release; compare it with a copy"
    try:
        with (folder / FILE).open("rb") as lines:
            found = fold(iter(lambda: lines.readline(LONGEST_LINE), b""), upto=upto)
    except BadLine as error:
        raise VerificationError(str(error), remedy) from error
    if found.difference is not None:
        raise VerificationError(str(found.difference), remedy)
    if found.broken is not None:
        raise VerificationError(f"line {found.broken}: its hash does not fit what it says", remedy)
    row = {
        "rounds": found.rounds,
        "events": found.events,
        "commands": found.commands,
        "lines": found.lines,
        "cut_off_bytes": found.left_over,
        "head": found.head,
    }
    render([row], format, title=f"{folder.name}: every command is what the rules make of the events")
