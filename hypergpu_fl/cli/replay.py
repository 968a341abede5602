"""``hypergpu replay``: take every decision of a run again from its log, and compare it with what was done."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from hypergpu_fl.cli.options import Run, Runs
from hypergpu_fl.cli.place import place_of
from hypergpu_fl.cli.render import Format, FormatOption, render
from hypergpu_fl.errors import RunNotFound, VerificationError

_REMEDY: Final = "the event log was changed after it was written, or by another release; compare it with a copy"

app = typer.Typer(add_completion=False, help="Decide a run's rounds again from its log, and compare.")


@app.command()
def replay(
    run: Run = "latest",
    upto: Annotated[int | None, typer.Option(metavar="ROUND", min=0, help="stop when this round is closed")] = None,
    runs: Runs = None,
    format: FormatOption = Format.DEFAULT,
) -> None:
    """Decide a run again from its log; if a command differs, show the first one and exit with an error.

    The run's books must seal this log, too. A run that still goes on is decided as far as it has come. RUN may be a
    folder, such as ./copy.

    Example: hypergpu replay latest --upto 10
    """
    from hypergpu_fl.ledger.event_log import heads_in, verify_log
    from strategies.errors import BadLine
    from strategies.event_log import FILE
    from strategies.round.lines import LONGEST_LINE
    from strategies.round.replay import replay as fold

    folder = place_of(run, runs)
    log = folder / FILE
    if not log.is_file():
        raise RunNotFound(f"{folder.name} has no {FILE}", "take it from the machine of the run; a run begins with it")
    # The books first: what they seal by now is in the log, also of a run that goes on meanwhile.
    heads = heads_in(folder / "run.db", folder / "ledger.json")
    try:
        with log.open("rb") as lines:
            found = fold(iter(lambda: lines.readline(LONGEST_LINE), b""), upto=upto)
    except BadLine as error:
        raise VerificationError(str(error), _REMEDY) from error
    if found.difference is not None:
        raise VerificationError(str(found.difference), _REMEDY)
    if found.broken is not None:
        raise VerificationError(f"line {found.broken}: its hash does not fit what it says", _REMEDY)
    if found.state is None:
        raise VerificationError(f"{log} holds no whole line", _REMEDY)
    sealed = {round: head for round, head in (heads or {}).items() if upto is None or round <= upto}
    with log.open("rb") as lines:
        verify_log(sealed, iter(lambda: lines.readline(LONGEST_LINE), b""))
    row = {
        "rounds": found.rounds,
        "sealed": None if heads is None else len(sealed),
        "events": found.events,
        "commands": found.commands,
        "lines": found.lines,
        "cut_off_bytes": found.left_over,
        "head": found.head,
    }
    said = (
        "there are no books to compare its log with" if heads is None else f"the books seal {len(sealed)} rounds of it"
    )
    render([row], format, title=f"{folder.name}: every command is what the rules make of the events; {said}")
