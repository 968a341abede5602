"""``hypergpu config``: check a file, show effective values with their origin, print the JSON Schema."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from hypergpu_fl.cli.options import ConfigFile, Overrides, overrides
from hypergpu_fl.cli.preflight import check_links
from hypergpu_fl.cli.render import Format, FormatOption, render
from hypergpu_fl.config import Config, environment, flatten, load, read_secrets
from hypergpu_fl.redaction import MASK, SECRETS

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Check a configuration, show effective values, print the JSON Schema.",
)


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="JSON or TOML file")],
    settings: Overrides = None,
    format: FormatOption = Format.DEFAULT,
) -> None:
    """Check a file together with the environment; report all faults at once.

    Example: hypergpu config check configs/demo.toml
    """
    check_links(load(file, overrides(settings), environment(os.environ)).config)
    if format is Format.JSON:
        render({"file": str(file), "valid": True}, format)
    else:
        typer.echo(f"{file} is valid")


@app.command()
def show(file: ConfigFile = None, settings: Overrides = None, format: FormatOption = Format.DEFAULT) -> None:
    """Show the value of every setting and the layer it came from.

    Example: hypergpu config show --config configs/demo.toml --set training.rounds=5
    """
    environ = environment(os.environ)
    loaded = load(file, overrides(settings), environ)
    rows: list[dict[str, Any]] = [
        {"setting": path, "value": value, "origin": loaded.origins.get(path, "default")}
        for path, value in flatten(loaded.config.model_dump()).items()
    ]
    secrets = read_secrets()
    for name in SECRETS:
        given = getattr(secrets, name.removeprefix("HYPERGPU_").lower()) is not None
        rows.append({"setting": name, "value": MASK if given else "", "origin": "environment" if given else "not set"})
    render(rows, format)


@app.command()
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors and other programs.

    Example: hypergpu config schema
    """
    typer.echo(
        json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema"} | Config.model_json_schema(), indent=2)
    )
