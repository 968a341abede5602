"""``hypergpu export``: take a run's model home."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from hypergpu_fl.cli.options import Run, Runs
from hypergpu_fl.cli.place import books_folder
from hypergpu_fl.cli.render import Format, render
from hypergpu_fl.config import environment
from hypergpu_fl.errors import CheckpointError, TaskError
from hypergpu_fl.output import printable

app = typer.Typer(add_completion=False, help="Take a run's model home, as a state dict.")


class ModelFormat(StrEnum):
    """Of the file that holds the model."""

    SAFETENSORS = "safetensors"
    PT = "pt"


@app.command()
def export(
    run: Run = "latest",
    model_format: Annotated[
        ModelFormat, typer.Option("--format", help="safetensors, or pt for torch.load(..., weights_only=True)")
    ] = ModelFormat.SAFETENSORS,
    best: Annotated[bool, typer.Option("--best", help="the best round's model instead of the last one's")] = False,
    trained_only: Annotated[
        bool,
        typer.Option("--trained-only", help="only what was trained, for load_state_dict(..., strict=False)"),
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", help="folder to write to; default: export/ in the run's")] = None,
    runs: Runs = None,
    as_json: Annotated[bool, typer.Option("--json", help="print model.json instead of a table")] = False,
) -> None:
    """Write the model as a state dict, frozen parameters included, and model.json, which says what it is.

    An export of another model in the same folder is replaced, which is said.

    Best is the round with the best target metric, else accuracy, else the lowest loss; of equals, the one of the lowest
    loss.

    Example: hypergpu export demo --best --format safetensors --out model
    """
    from hypergpu_fl.server.export import export as write

    folder = books_folder(run, runs)
    place = out or folder / "export"
    earlier = _described(place)
    sys.path.append(os.getcwd())  # where `hypergpu run` looks for the user's own modules too
    try:
        about = write(
            folder,
            place,
            format=model_format.value,
            best=best,
            trained_only=trained_only,
            environ=environment(os.environ),
        )
    except TaskError as error:
        raise CheckpointError(
            f"the task's model cannot be made: {error.cause}",
            f"{error.remedy}; or give --trained-only, which needs no task",
        ) from error
    if earlier and (replaced := replaces(earlier, about)):
        typer.echo(printable(replaced), err=True)
    if as_json:
        render(about, Format.JSON)
        return
    figures = ", ".join(f"{name} {value:.4g}" for name, value in about["metrics"].items())
    render({"run": about["run"], "round": about["round"], "metrics": figures, "tensors": about["tensors"]})
    typer.echo(f"{place / about['file']}")


def replaces(earlier: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """What to say of the export that lay in the folder; empty if it was of the same model."""
    if all(earlier.get(key) == about[key] for key in ("run", "round", "trained_only")):
        return ""
    of = f"round {earlier.get('round')} of run {earlier.get('run')}"
    if earlier.get("file") == about["file"]:
        return f"replaces the export of {of}"
    return f"model.json replaces that of {of}, whose {earlier.get('file')} still lies beside it"


def _described(place: Path) -> dict[str, Any]:
    """The model.json of an earlier export; empty if there is none."""
    try:
        return dict(json.loads((place / "model.json").read_bytes()))
    except (OSError, ValueError, TypeError):
        return {}
