"""Options that several commands share, so that their spelling and help are the same everywhere."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import click
import typer

from hypergpu_fl.config import System, environment, runs_root
from hypergpu_fl.config.values import one_line
from hypergpu_fl.errors import UsageError

ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help="JSON or TOML file")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="one setting, such as training.rounds=5")
]
Run = Annotated[str, typer.Argument(metavar="RUN", help="name of a run, 'latest', or a run's folder")]
Runs = Annotated[Path | None, typer.Option("--runs", help="folder of all runs (HYPERGPU_RUNS, else ./runs)")]


def overrides(settings: Sequence[str] | None) -> dict[str, str]:
    """``--set`` options as dotted name -> text.

    Raises
    ------
    UsageError
        If one is not of the form ``key=value``.
    """
    flat: dict[str, str] = {}
    for setting in settings or ():
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise UsageError(f"--set {setting!r} is not KEY=VALUE", "write --set training.rounds=5")
        flat[name.strip()] = value
    return flat


def unread(config: Path | None) -> str:
    """Warning about a configuration in this folder that nobody named, such as `hypergpu init` writes; empty if none."""
    here = next((name for name in ("config.toml", "config.json") if not config and Path(name).is_file()), "")
    return here and f"warning: {here} lies here but is not read; --config {here} reads it"


def root_of(runs: Path | None, system: System | None = None) -> Path:
    """Root of the runs: ``--runs``, else what ``system`` says, else ``HYPERGPU_RUNS``, else ``./runs``.

    Raises
    ------
    UsageError
        If its path is none that `presentable` accepts.
    """
    root = runs.expanduser().resolve() if runs else runs_root(system or System(), environment(os.environ))
    return presentable(root)


def presentable(path: Path) -> Path:
    """Return ``path`` if a run-config, a message and a terminal can carry it.

    Raises
    ------
    UsageError
        If it holds a control character or is not UTF-8, as the name of the folder in which one types may.
    """
    try:
        one_line(str(path))
    except ValueError as error:
        raise UsageError(f"the path {str(path)!r} {error}", "rename that folder, or name another one") from None
    return path


def debugging() -> bool:
    """Whether this command was given ``--debug``; see `hypergpu_fl.cli.invoke`."""
    context = click.get_current_context(silent=True)
    return context is not None and context.obj is True
