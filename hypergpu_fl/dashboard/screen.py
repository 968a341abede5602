"""A run on a terminal: a screen that is drawn again and again, or one plain line for each round."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hypergpu_fl.dashboard import words
from hypergpu_fl.output import of_those_asked, printable

Row = Mapping[str, Any]

_BARS: Final = "▁▂▃▄▅▆▇█"
_COLOURS: Final = {
    "running": "green",
    "completed": "green",
    "failed": "red",
    "silent": "yellow",
    "stopped": "yellow",
    "starting": "cyan",
    "broken off": "red",
    "sound": "green",
    "suspect": "yellow",
    "excluded": "red",
    "offline": "red",
    "joining": "cyan",
}
_LINES_ABOVE: Final = 9  # lines of the screen besides the nodes
_WIDE: Final = 110  # columns that a node's full row needs


def screen(
    run: Row,
    rounds: Sequence[Row],
    nodes: Sequence[Row],
    *,
    width: int,
    height: int,
    messages: Sequence[str] = (),
) -> RenderableType:
    """Everything about a run, in ``width`` columns and ``height`` lines.

    Parameters
    ----------
    run, rounds, nodes
        See `hypergpu_fl.dashboard.run_view.RunView`.
    messages : Sequence[str]
        What the run said last, shown under the nodes.
    """
    noted = _notes(messages, width, max(1, (height - _LINES_ABOVE) // 2))
    said = [Text(text, style="yellow", overflow="ellipsis", no_wrap=True) for text in noted]
    room = max(1, height - _LINES_ABOVE - len(said) - (1 if said else 0))
    parts: list[RenderableType] = [_title(run), _progress(run, width), Text(""), *_curves(run, rounds, width)]
    parts += [Text(""), _nodes(nodes, room, width)]
    return Padding(Group(*parts, *([Text(""), *said] if said else [])), (0, 1))


def _notes(messages: Sequence[str], width: int, most: int) -> list[str]:
    """The last messages, wrapped, in at most ``most`` lines; an older one is left out rather than cut."""
    lines: list[str] = []
    for text in reversed(messages[-3:]):
        wrapped = textwrap.wrap(printable(text), max(2, width), max_lines=most, placeholder="…")
        if len(wrapped) + len(lines) > most:
            break
        lines = wrapped + lines
    return lines


def line(row: Row, *, wanted: int | None) -> str:
    """A round in one plain line."""
    of = f"/{wanted}" if wanted else ""
    metrics = "".join(f"{printable(name)} {words.number(value)}  " for name, value in row["metrics"].items())
    return (
        f"round {row['round']:>3}{of}  {metrics}loss {words.number(row['loss'])}  {words.seconds(row['seconds'])}  "
        f"{of_those_asked(row['arrived'], row['selected'])} arrived  {row['late']} late  {row['refused']} refused  "
        f"{words.size(row['bytes_up'])} up"
    )


def sparkline(values: Sequence[float | None], width: int) -> str:
    """``values`` as at most ``width`` bars between the least and the greatest; a blank where there is no value."""
    shown = values if len(values) <= width else _means(values, width)
    known = [value for value in shown if value is not None]
    if not known:
        return ""
    low, span = min(known), (max(known) - min(known)) or 1.0
    return "".join(" " if v is None else _BARS[min(7, int(8 * (v - low) / span))] for v in shown)


def _means(values: Sequence[float | None], width: int) -> list[float | None]:
    """``values`` as ``width`` means of neighbours."""
    means: list[float | None] = []
    for i in range(width):
        part = [v for v in values[i * len(values) // width : (i + 1) * len(values) // width] if v is not None]
        means.append(sum(part) / len(part) if part else None)
    return means


def _title(run: Row) -> Text:
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append(printable(run["run"]), style="bold")
    text.append(f"  {printable(run['task'])}", style="dim")
    text.append(f"  {run['state']}", style=_COLOURS.get(run["state"], ""))
    if run["failure"]:
        text.append(f"  {printable(run['failure'])}", style="red")
    return text


def _progress(run: Row, width: int) -> RenderableType:
    done, wanted, open_ = run["rounds"], run["rounds_wanted"], run["open"]
    right = f"round {done}" + (f"/{wanted}" if wanted else "")
    if run["eta_s"]:
        right += f"  about {words.left(run['eta_s'])} left"
    if open_:
        right += f"  {open_['answered']}/{open_['sent']} answered"
    grid = Table.grid(padding=(0, 2))
    grid.add_row(ProgressBar(total=wanted or max(1, done), completed=done, width=max(10, width // 3)), Text(right))
    return grid


def _curves(run: Row, rounds: Sequence[Row], width: int) -> list[RenderableType]:
    names = list(run["metrics"])[:1]
    curves = [(name, [row["metrics"].get(name) for row in rounds]) for name in names]
    curves.append(("loss", [row["loss"] for row in rounds]))
    grid = Table.grid(padding=(0, 2))
    for name, values in curves:
        last = values[-1] if values else None
        spark = Text(sparkline(values, max(10, width - 40)), style="cyan")
        grid.add_row(Text(printable(name)), Text(words.number(last), style="bold"), spark)
    counts = (
        f"{run['counted']:,} counted  {run['late']:,} late  {run['refused']:,} refused  "
        f"{words.size(run['bytes_up'])} up  {words.size(run['bytes_down'])} down"
    )
    return [grid, Text(counts, style="dim", no_wrap=True, overflow="ellipsis")]


def _nodes(nodes: Sequence[Row], room: int, width: int) -> RenderableType:
    if not nodes:
        return Text("no node has said who it is yet", style="dim")
    wide = width >= _WIDE
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("node", no_wrap=True, overflow="ellipsis", min_width=8, max_width=24 if wide else 14)
    for name in ("up", "down", "RTT", "seen") if wide else ("up", "RTT"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("plan", "now"):
        table.add_column(name, no_wrap=True)
    for name in ("weight", "MON") if wide else ("MON",):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("health", no_wrap=True, overflow="ellipsis", min_width=8)
    shown = nodes if len(nodes) < room else nodes[: max(1, room - 2)]
    for node in shown:
        up, rtt = words.rate(node["uplink_bps"]), words.seconds(node["rtt_s"])
        seen = f"{words.seconds(node['seen_ago_s'])} ago" if node["seen_ago_s"] is not None else "-"
        pay = words.money(node["wei"] and int(node["wei"]), "").rstrip()
        health = Text(node["state"], style=_COLOURS.get(node["state"], ""))
        if wide and node["state"] not in ("sound", "joining"):
            health.append(f"  {printable(node['reason'])}", style="dim")
        table.add_row(
            Text(printable(node["name"])),
            *((up, words.rate(node["downlink_bps"]), rtt, seen) if wide else (up, rtt)),
            Text(f"{node['steps'] or '-'} × {printable(node['codec'] or '-')}"),
            node["phase"],
            *((words.share(node["weight"]), pay) if wide else (pay,)),
            health,
        )
    if len(shown) == len(nodes):
        return table
    return Group(table, Text(f"and {len(nodes) - len(shown):,} more: a taller terminal, or the page", style="dim"))
