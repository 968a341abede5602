"""``hypergpu replay``: take every decision of a run again from its log, and compare it with what was done."""

from __future__ import annotations

from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from hypergpu_fl.cli.options import Run, Runs
from hypergpu_fl.cli.place import books_folder
from hypergpu_fl.cli.render import Format, FormatOption, render
from hypergpu_fl.errors import RunNotFound, UsageError, VerificationError
from hypergpu_fl.output import printable
from strategies.prose import amount
from strategies.spelling import did_you_mean

if TYPE_CHECKING:
    from pathlib import Path

    from strategies.round.replay import Replay
    from strategies.round.story import Story

_REMEDY: Final = "the event log was changed after it was written, or by another release; compare it with a copy"

app = typer.Typer(add_completion=False, help="Decide a run's rounds again from its log, and compare.")


@app.command()
def replay(
    run: Run = "latest",
    upto: Annotated[int | None, typer.Option(metavar="ROUND", min=0, help="stop when this round is closed")] = None,
    node: Annotated[
        str, typer.Option(metavar="NAME", help="tell why this node worked or not, and what its updates weigh")
    ] = "",
    runs: Runs = None,
    format: FormatOption = Format.DEFAULT,
) -> None:
    """Decide a run again from its log; if a command differs, show the first one and exit with an error.

    The run's books must seal this log, too. Rules that changed on the way, as when a run is resumed with other
    settings, are told.

    Example: hypergpu replay latest --upto 10
    """
    from hypergpu_fl.ledger.event_log import heads_in, verify_log
    from strategies.event_log import FILE
    from strategies.round.lines import LONGEST_LINE
    from strategies.round.story import Story

    folder = books_folder(run, runs)
    log = folder / FILE
    if not log.is_file():
        raise RunNotFound(f"{folder.name} has no {FILE}", "take it from the machine of the run; a run begins with it")
    story = Story(node) if node else None
    # The books first: what they seal by now is in the log, also of a run that goes on meanwhile.
    heads = heads_in(folder / "run.db", folder / "ledger.json")
    found = _decided(log, upto, story)
    sealed = {round: head for round, head in (heads or {}).items() if upto is None or round <= upto}
    with log.open("rb") as lines:
        verify_log(sealed, iter(lambda: lines.readline(LONGEST_LINE), b""))
    if story is not None and not story.moments:
        names = found.state.fleet.names if found.state is not None else []
        hint = did_you_mean(node, names).removeprefix("; ") or f"the nodes are {', '.join(names[:9])}"
        raise UsageError(f"no node {node!r} has joined this run", hint)
    row: dict[str, Any] = {
        "rounds": found.rounds,
        "sealed": None if heads is None else len(sealed),
        "events": found.events,
        "commands": found.commands,
        "lines": found.lines,
        "cut_off_bytes": found.left_over,
        "head": found.head,
    }
    if format is Format.JSON:
        row["changed_rules"] = [asdict(change) for change in found.changes]
    if story is not None and format is Format.JSON:
        row["node"] = [asdict(moment) for moment in story.moments]
    books = (
        "there are no books to compare its log with"
        if heads is None
        else f"its books seal {amount(len(sealed), 'round')} of it"
    )
    render([row], format, title=f"{folder.name}: every command is what the rules make of the events; {books}")
    if format is Format.DEFAULT:
        for start, changes in groupby(found.changes, lambda change: change.from_round):
            typer.echo(printable(f"from round {start} on other rules: {', '.join(map(str, changes))}"))
    if story is not None and format is Format.DEFAULT:
        render([asdict(moment) for moment in story.moments], title=f"{node}, seconds on the run's clock")


def _decided(log: Path, upto: int | None, story: Story | None) -> Replay:
    """The log decided again; VerificationError if anything in it differs."""
    from strategies.errors import BadLine
    from strategies.round.lines import LONGEST_LINE
    from strategies.round.replay import replay as fold

    try:
        with log.open("rb") as lines:
            found = fold(iter(lambda: lines.readline(LONGEST_LINE), b""), upto=upto, story=story)
    except BadLine as error:
        raise VerificationError(str(error), _REMEDY) from error
    if found.difference is not None:
        raise VerificationError(str(found.difference), _REMEDY)
    if found.broken is not None:
        raise VerificationError(f"line {found.broken}: its hash does not fit what it says", _REMEDY)
    if found.state is None:
        raise VerificationError(f"{log} holds no whole line", _REMEDY)
    return found
