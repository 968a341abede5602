"""``hypergpu ledger audit``: recompute a run from its updates, and say what that proves."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated

import typer

from hypergpu_fl.cli.options import Run, Runs
from hypergpu_fl.cli.place import place_of
from hypergpu_fl.cli.render import Format, FormatOption, render
from hypergpu_fl.errors import LedgerError, UsageError
from strategies.prose import amount

CHANGED = (0.01, 0.05, 0.2)  # shares of changed rounds for which the chance of finding a change is shown


def audit(
    run: Run = "latest",
    rounds: Annotated[str, typer.Option("--rounds", help="all, or how many rounds' values to compute again")] = "all",
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="of the draw; by chance if left out")] = None,
    runs: Runs = None,
    format: FormatOption = Format.DEFAULT,
) -> None:
    """Recompute decisions, weights and models of a run from its log and updates, and values and scores of drawn rounds.

    It needs the run's folder (ledger.json, events.jsonl, report.json and blobs/) and the validation data. Values are
    computed on the CPU. If the books do not follow, it shows the first difference and exits with an error.

    Example: hypergpu ledger audit demo --rounds 6 --seed 1
    """
    import secrets

    from hypergpu_fl.audit.recompute import TOLERANCE
    from hypergpu_fl.audit.recompute import audit as recompute
    from hypergpu_fl.config import from_run_config
    from hypergpu_fl.settlement import BUNDLE, load_bundle, verify
    from hypergpu_fl.task import load_task
    from hypergpu_fl.task.device import resolve_device

    if rounds != "all" and not (rounds.isdecimal() and int(rounds)):
        raise UsageError(f"--rounds {rounds!r} is no number", "write --rounds all, or a number such as --rounds 6")
    folder = place_of(run, runs)
    if not (folder / "report.json").is_file() or not (folder / BUNDLE).is_file():
        raise LedgerError(f"{folder} is no run that has ended", "an audit needs the whole folder of a run")
    bundle = load_bundle(folder / BUNDLE)
    findings = verify(bundle)
    try:
        settings = dict(json.loads((folder / "report.json").read_text())["stretches"][0]["settings"])
    except (ValueError, LookupError, TypeError):
        raise LedgerError(
            f"{folder / 'report.json'} does not say which settings the run began with", "bring back the run's report"
        ) from None
    config = from_run_config(settings, os.environ)
    sys.path.append(os.getcwd())  # where `hypergpu run` looks for the user's own modules too
    task = load_task(config.training, config.system, simulated=config.network.enable_simulation)
    drawn_by = secrets.randbelow(2**32) if seed is None else seed
    count = None if rounds == "all" else int(rounds)
    found = recompute(bundle, folder, config, task, device=resolve_device("cpu"), count=count, seed=drawn_by)
    result = {
        "rounds": found.rounds,
        "contributions": found.contributions,
        "differences": 0,
        "recomputed": ["decisions", "weights", "models", "rewards"],
        "priced rounds": list(found.priced_rounds),
        "priced contributions": found.priced_contributions,
        "seed": None if count is None else drawn_by,
        "tolerance": TOLERANCE,
        "unaudited": list(found.unaudited),
        "signed": findings.signed,
    }
    if format is Format.JSON:
        render(result, format)
        return
    typer.echo(
        f"recomputed: decisions, weights, models and rewards of {amount(found.rounds, 'round')}, "
        f"{amount(found.contributions, 'contribution')}: no difference"
    )
    if found.priced_rounds:
        typer.echo(
            f"recomputed: values and scores of {amount(found.priced_contributions, 'contribution')} in "
            f"{amount(len(found.priced_rounds), 'round')}, within {TOLERANCE:.1%} of a round's values: no difference"
        )
    if count is not None and found.priced_rounds:
        chances = ", ".join(f"{found.sampled_share(share):.0%} if {share:.0%} of the rounds" for share in CHANGED)
        draw = f"a draw of {amount(len(found.priced_rounds), 'round')} (--seed {drawn_by})"
        typer.echo(f"{draw} shows changed values with {chances}")
    for what in found.unaudited:
        typer.echo(f"not audited: {what}")
    typer.echo("who was invited, and what data an update was made from, stay the coordinator's and the nodes' word")
