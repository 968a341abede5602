"""``hypergpu init``: a small project that runs as it is, for the user to change file by file."""

from __future__ import annotations

import shlex
from importlib import resources
from pathlib import Path
from typing import Annotated, Final

import typer

from hypergpu_fl.cli.options import presentable
from hypergpu_fl.errors import UsageError

FILES: Final = ("task.py", "config.toml", "README.md", "test_task.py")
NEXT: Final = (
    ("hypergpu task check task:Diagnosis --config config.toml", "try the task, see what a round costs"),
    ("hypergpu run --config config.toml", "train, simulated"),
    ("hypergpu export latest --best --out model", "take the weights home"),
)

app = typer.Typer(add_completion=False, help="Start a project of one's own: task, configuration, test and README.")


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="NAME", help="folder to make; it may exist if it is empty")],
) -> None:
    """Write a small project that trains in seconds, and say what to do with it.

    Example: hypergpu init my-project
    """
    place = folder.expanduser()
    write_project(place)
    here = place.resolve() == Path.cwd()
    typer.echo(f"{', '.join(FILES)} are in {'this folder' if here else place}. Next:\n")
    if not here:
        typer.echo(f"  cd {'./' * str(place).startswith('-')}{shlex.quote(str(place))}")
    for command, why in NEXT:
        typer.echo(f"  {command:<58} # {why}")
    typer.echo("\nThen make task.py your own; its comments say where.")


def write_project(folder: Path) -> None:
    """Write the project's files into a new or empty folder.

    Raises
    ------
    UsageError
        If something is there already, or the folder cannot be written, or nothing could be run in it.
    """
    template = resources.files("hypergpu_fl.cli") / "template"
    try:
        presentable(folder.resolve())  # a run's configuration holds the path of its folder
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UsageError(f"{folder} exists and is not an empty folder", "name another; nothing was written")
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            with (folder / name).open("x", encoding="utf-8") as file:
                file.write((template / name).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror or error}", "name another folder") from error
