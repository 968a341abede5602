"""Rows and mappings to the terminal, as a table or as JSON."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from hypergpu_fl.output import printable, to_json
from hypergpu_fl.redaction import redact, redact_values

if TYPE_CHECKING:
    from rich.table import Table

Row = Mapping[str, Any]


class Format(StrEnum):
    """How a command answers."""

    DEFAULT = "default"
    JSON = "json"


FormatOption = Annotated[Format, typer.Option("--format", help="'default' for a table, 'json' for programs")]


_PIPE_COLUMNS: Final = 240
_READABLE_COLUMNS: Final = 120  # of a pipe, before columns that can be spared are left out


def render(
    content: Row | Sequence[Row], format: Format = Format.DEFAULT, *, title: str = "", spare: Sequence[str] = ()
) -> None:
    """Write ``content`` to standard output.

    A mapping becomes two columns, a sequence of mappings one row each under the union of their keys. JSON keeps
    numbers as they are, with NaN and infinity as null; a table shows floats with four significant digits. A table
    without rows says so. Columns named in ``spare`` are left out one by one, and named on standard error, while the
    table is wider than the terminal, or than 120 characters in a pipe.
    """
    if format is Format.JSON:
        sys.stdout.write(to_json(redact_values(content), indent=2) + "\n")
        return
    if not content:
        typer.echo("nothing to show yet")
        return
    from rich.console import Console

    # A pipe has no width: rich would fold rows at 80 columns, which makes them hard to process.
    console = Console() if sys.stdout.isatty() else Console(width=_PIPE_COLUMNS, soft_wrap=False)
    wanted = console.width if sys.stdout.isatty() else _READABLE_COLUMNS
    left_out: list[str] = []
    table = _table(content, title, left_out)
    for name in (name for name in spare if name in {column.header for column in table.columns}):
        if console.measure(table).maximum <= wanted:
            break
        left_out.append(name)
        table = _table(content, title, left_out)
    console.print(table, markup=False)
    if left_out:
        typer.echo(f"left out, as lines are short: {', '.join(left_out)}; --format json has them", err=True)


def _table(content: Row | Sequence[Row], title: str, left_out: Sequence[str]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=printable(title) or None, box=box.SIMPLE_HEAD, title_justify="left", show_header=True)
    if isinstance(content, Mapping):
        table.show_header = False
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in content.items():
            table.add_row(name, cell(value))
    else:
        columns = list(dict.fromkeys(name for row in content for name in row if name not in left_out))
        for name in columns:
            numeric = all(isinstance(row.get(name), int | float | None) for row in content)
            table.add_column(name, justify="right" if numeric else "left", overflow="fold")
        for row in content:
            table.add_row(*(cell(row.get(name)) for name in columns))
    return table


def cell(value: Any) -> str:
    """One value as a table shows it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(cell, value)) or "none"
    return printable(redact(str(value)))
