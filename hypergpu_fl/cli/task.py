"""``hypergpu task``: try your own task before anything is started."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hypergpu_fl.cli.apart import apart
from hypergpu_fl.cli.bundle import own_code
from hypergpu_fl.cli.options import ConfigFile, Overrides, overrides, unread
from hypergpu_fl.cli.render import Format, FormatOption, cell, render
from hypergpu_fl.config import Config, environment, load
from strategies.prose import amount

if TYPE_CHECKING:
    from hypergpu_fl.task.check import Checked

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Try a task in seconds, and see what a round of it costs."
)


@app.callback()
def task() -> None:
    """Try a task in seconds, and see what a round of it costs."""


@app.command()
def check(
    reference: Annotated[
        str, typer.Argument(metavar="[PKG:NAME]", help="the task, as training.task names it; default: what it names")
    ] = "",
    config: ConfigFile = None,
    settings: Overrides = None,
    links: Annotated[
        list[str] | None,
        typer.Option("--links", help="the nodes' links: a profile (lan, broadband, ...) or FILE.csv; may be repeated"),
    ] = None,
    partition: Annotated[
        int | None, typer.Option(min=0, help="try this share alone; default: a step on as many as 10 s allow")
    ] = None,
    format: FormatOption = Format.DEFAULT,
) -> None:
    """Try a task without Flower, in seconds: two steps, evaluation, and what a round costs over given links.

    Example: hypergpu task check task:Diagnosis --config config.toml --links broadband --links mobile
    """
    given = overrides(settings) | ({"training.task": reference} if reference else {})
    effective = load(config, given, environment(os.environ)).config
    if warning := unread(config):
        typer.echo(warning, err=True)
    if format is Format.DEFAULT:
        typer.echo(f"trying {effective.training.title}: data, two steps, evaluation", err=True)

    with own_code(effective.training) as code:  # as `hypergpu run` does, without what else lies in this folder
        sys.path.insert(0, str(code))
        told, rows = apart(try_and_cost, effective, links or [], partition, doing=f"trying {effective.training.title}")
    if format is Format.JSON:
        render(told | {"costs": rows}, format)
        return
    render({name: _words(value) if isinstance(value, Mapping) else value for name, value in told.items()})
    render([{_COLUMNS[name]: row[name] for name in _COLUMNS} for row in rows])
    typer.echo(
        f"nodes at this level: for how many of the {amount(effective.training.num_nodes, 'node')} (training.num_nodes) "
        "the planner would choose it, over links drawn for each"
    )
    for share in told.get("other_shares", {}).get("too_small", ()):
        typer.echo(f"warning: share {share} was not tried: it has too few examples", err=True)


def try_and_cost(
    config: Config, links: Sequence[str], partition: int | None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What was tried, and what a round costs over each of the links. Runs apart: the user's code runs here."""
    from hypergpu_fl.cli.round_costs import costs_of, over
    from hypergpu_fl.task import load_task
    from hypergpu_fl.task.check import check_task, try_others

    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever the user's code prints
    began_s = time.monotonic()
    for name in links:
        over(config.network, name)  # a misspelt name is refused before anything is tried
    built = load_task(config.training, config.system)
    checked = check_task(config.training, built, device=config.system.device, partition=partition)
    rows = [asdict(cost) for cost in costs_of(config, checked, links)]
    told = summary(config.training.title, checked)
    if partition is None:
        others = try_others(config.training, checked, device=config.system.device)
        told["other_shares"] = {"tried": others.tried, "too_small": list(others.small), "not_tried": others.left}
    return told | {"seconds": time.monotonic() - began_s}, rows


_COLUMNS = {
    "links": "links",
    "level": "codec level",
    "update_bytes": "bytes up",
    "ratio": "times smaller",
    "steps": "steps",
    "median_s": "s a round, median node",
    "slow_s": "slowest fifth",
    "nodes": "nodes at this level",
}


def summary(title: str, checked: Checked) -> dict[str, Any]:
    """What was tried, and the results."""
    trained, unit = checked.trial.trained, checked.task.unit
    figures = {"trained": trained.metrics, "held_out": checked.held_out.named, "validation": checked.validation.named}
    odd = [f"{part} {name}" for part, named in figures.items() for name in named if not math.isfinite(named[name])]
    return {
        "task": title,
        "identity": {name: text for name, text in checked.identity.items() if name != "arrays"},
        "model_bytes": sum(array.nbytes for array in checked.trial.before.values()),
        "share": f"{amount(checked.examples, 'example')} on partition {checked.partition}",
        "trained": {"steps": trained.steps, unit: trained.count, "loss": trained.loss} | dict(trained.metrics),
        "held_out": {unit: checked.held_out.count, **checked.held_out.named},
        "validation": {unit: checked.validation.count, **checked.validation.named},
        "passed": "arrays come back as they went; steps change the weights, twice alike; "
        + (f"not finite: {', '.join(odd)}" if odd else "every figure is finite"),
    }


def _words(figures: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {cell(value)}" for name, value in figures.items())
