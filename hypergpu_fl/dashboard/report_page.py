"""Runs as one HTML document that stands alone: no script, no other file, no request to any host."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Final

from hypergpu_fl.config.flat import flatten
from hypergpu_fl.config.task_options import unpacked
from hypergpu_fl.dashboard import words
from hypergpu_fl.dashboard.line_chart import Point, line_chart
from hypergpu_fl.dashboard.run_view import RunView
from hypergpu_fl.redaction import redact
from strategies.prose import amount

Row = Mapping[str, Any]

LONGEST_TEXT: Final = 300  # characters shown of a text, since a node's words may be of any length
_STYLE: Final = Path(__file__).with_name("report.css")


@dataclass(frozen=True)
class Told:
    """A run as a report shows it."""

    run: Row
    rounds: Sequence[Row]
    nodes: Sequence[Row]
    settings: Row
    versions: Row

    @classmethod
    def of(cls, view: RunView) -> Told:
        """Everything that a view shows now."""
        view.poll(whole=True)
        return cls(view.summary(), list(view.rounds), view.nodes(), view.settings(), view.versions())


def report_page(runs: Sequence[Told], *, written_s: float) -> str:
    """The document: one run's report, or several side by side.

    Parameters
    ----------
    runs : Sequence[Told]
        At least one.
    written_s : float
        Seconds since the epoch.
    """
    names = [_text(told.run["run"]) for told in runs]
    title = names[0] if len(names) == 1 else " · ".join(names)
    when = datetime.datetime.fromtimestamp(written_s, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    body = [f"<h1>{title}</h1><p>HyperGPU, written {when}</p>"]
    for told in runs:
        if told.run["failure"]:
            body.append(f'<p class="bad"><bdi>{_text(told.run["run"])}</bdi>: {_text(told.run["failure"])}</p>')
    body += [_figures(runs), _charts(runs)]
    for told in runs:
        suffix = f" of {_text(told.run['run'])}" if len(runs) > 1 else ""
        body += [f"<h2>Nodes{suffix}</h2>", _nodes(told)]
    body += ["<h2>Settings</h2>", _settings(runs)]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{title}</title><style>{_STYLE.read_text()}</style></head><body>{''.join(body)}</body></html>\n"
    )


def figures(told: Told) -> dict[str, str]:
    """A run's results: name -> value with its unit."""
    run = told.run
    metrics = {name: words.number(value) for name, value in run["metrics"].items()}
    return {
        "state": run["state"],
        "task": run["task"],
        "rounds": f"{run['rounds']:,}" + (f" of {run['rounds_wanted']:,}" if run["rounds_wanted"] else ""),
        f"time ({run['clock']} clock)": words.seconds(run["seconds"]),
        "loss": words.number(run["loss"]),
        **metrics,
        "nodes": f"{run['nodes']:,}",
        "updates counted": f"{run['counted']:,}",
        "of these late": f"{run['late']:,}",
        "refused": f"{run['refused']:,}",
        "sent up": words.size(run["bytes_up"]),
        "sent down": words.size(run["bytes_down"]),
    } | ({} if run["earned_wei"] is None else {"earned by nodes": words.money(int(run["earned_wei"]))})


def _figures(runs: Sequence[Told]) -> str:
    columns = [figures(told) for told in runs]
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [[name, *(column.get(name, "-") for column in columns)] for name in names]
    heads = ["", *(told.run["run"] for told in runs)]
    return _table(heads if len(runs) > 1 else ["", "at the end"], rows, plain=True)


def _charts(runs: Sequence[Told]) -> str:
    metrics = list(dict.fromkeys(name for told in runs for row in told.rounds for name in row["metrics"]))
    several = len(runs) > 1
    across: list[tuple[str, Callable[[Row], float], Callable[[float], str]]] = [
        ("rounds", lambda row: row["round"], lambda value: f"{value:,.0f}")
    ]
    if several:
        across.append(("time", lambda row: row["seconds"], words.seconds))
    found = []
    for name in [*metrics[:4], "loss"]:
        for axis, x, x_words in across:
            lines = [
                (told.run["run"], [(x(row), {**row["metrics"], "loss": row["loss"]}.get(name)) for row in told.rounds])
                for told in runs
            ]
            found.append(_figure(f"{name} over {axis}", lines, x_words, words.number, legend=several))
    for title, key, y_words in (
        ("bytes up a round", "bytes_up", words.size),
        ("length of a round", "took_s", words.seconds),
    ):
        lines = [(told.run["run"], [(row["round"], row[key]) for row in told.rounds]) for told in runs]
        found.append(_figure(title, lines, across[0][2], y_words, legend=several))
    if not several:
        kinds = ("selected", "arrived", "late", "refused")
        lines = [(kind, [(row["round"], row[kind]) for row in runs[0].rounds]) for kind in kinds]
        found.append(_figure("updates a round", lines, across[0][2], lambda value: f"{value:g}", legend=True))
    drawn = "".join(found)
    return f'<h2>Curves</h2><div class="charts">{drawn}</div>' if drawn else "<h2>Curves</h2><p>No round has ended.</p>"


def _figure(
    title: str,
    lines: Sequence[tuple[str, Sequence[Point]]],
    x_words: Callable[[float], str],
    y_words: Callable[[float], str],
    *,
    legend: bool,
) -> str:
    chart = line_chart(title, lines, x_words=x_words, y_words=y_words)
    if not chart:
        return ""
    keys = "".join(f'<span><i class="b{i % 6}"></i>{_text(name)}</span>' for i, (name, _) in enumerate(lines))
    return f"<figure><figcaption>{_text(title.capitalize())}{keys if legend else ''}</figcaption>{chart}</figure>"


def _nodes(told: Told) -> str:
    heads = [
        *("node", "health", "up", "down", "round trip", "quality", "plan", "success", "weight"),
        *("rounds paid", "earned", "why, or device"),
    ]
    rows = [
        [
            node["name"],
            node["state"],
            words.rate(node["uplink_bps"]),
            words.rate(node["downlink_bps"]),
            words.seconds(node["rtt_s"]),
            words.share(node["quality"]),
            f"{amount(node['steps'], 'step') if node['steps'] else '-'}, {node['codec'] or '-'}",
            words.share(node["success_rate"]),
            words.share(node["weight"]),
            f"{node['rounds_paid']:,}",
            words.money(node["wei"] and int(node["wei"])),
            node["reason"] if node["state"] != "sound" else node["device"],
        ]
        for node in told.nodes
    ]
    return _table(heads, rows) if rows else "<p>No node said who it is.</p>"


def settings(runs: Sequence[Told]) -> list[list[str]]:
    """Every setting and version: its name, then its value in each run."""
    trees = [
        unpacked(flatten(told.settings)) | {f"version of {name}": value for name, value in told.versions.items()}
        for told in runs
    ]
    names = list(dict.fromkeys(name for tree in trees for name in tree))
    return [[name, *(redact(str(tree.get(name, "-"))) for tree in trees)] for name in names]


def differs(row: Sequence[str]) -> bool:
    """Whether the runs differ in this row of `settings`."""
    return len(set(row[1:])) > 1


def _settings(runs: Sequence[Told]) -> str:
    """A table of all settings; with several runs, those that differ come first."""
    rows = sorted(settings(runs), key=differs, reverse=True)
    return (
        _table(["", *(told.run["run"] for told in runs)], rows) if rows else "<p>They are not in the run's folder.</p>"
    )


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, plain: bool = False) -> str:
    """A table; a ``plain`` one is as narrow as possible, with all columns left-aligned."""

    def cell(value: str, place: int) -> str:
        if place == 0:
            return f"<th scope=row><bdi>{_text(value)}</bdi></th>"
        number = not plain and (value[:1].isdigit() or value == "-")
        return f"<td class={'n' if number else 'long'}><bdi>{_text(value)}</bdi></td>"

    head = "".join(f"<th scope=col><bdi>{_text(name)}</bdi></th>" for name in heads)
    body = "".join(f"<tr>{''.join(cell(value, i) for i, value in enumerate(row))}</tr>" for row in rows)
    shape = "wide plain" if plain else "wide"
    return f'<div class="{shape}"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _text(value: str) -> str:
    """Escaped text of bounded length."""
    return escape(value if len(value) <= LONGEST_TEXT else f"{value[:LONGEST_TEXT]}…")
