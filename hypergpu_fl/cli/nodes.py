"""``hypergpu nodes``: the registry of a run."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

from hypergpu_fl.cli.names import registered
from hypergpu_fl.cli.options import Run, Runs
from hypergpu_fl.cli.place import books_folder
from hypergpu_fl.cli.render import Format, FormatOption, render
from hypergpu_fl.errors import RunNotFound
from hypergpu_fl.output import printable
from hypergpu_fl.redaction import redact
from strategies.prose import amount

if TYPE_CHECKING:
    from hypergpu_fl.dashboard.run_view import RunView
    from hypergpu_fl.network.registry import NodeRecord

# Left out where a line has no room for them, in this order.
_SPARE: Final = (
    *("address", "last_seen", "seen_s_ago", "jitter_ms", "packet_loss", "bytes_up", "train_loss"),
    *("last_failure", "device", "codec"),
)

app = typer.Typer(add_completion=False, help="The nodes of a run: links, quality, success rate.")


@app.command()
def nodes(run: Run = "latest", runs: Runs = None, format: FormatOption = Format.DEFAULT) -> None:
    """Show who took part, on what hardware, over which link, and how reliably.

    Example: hypergpu nodes latest
    """
    folder = books_folder(run, runs)
    if not (folder / "run.db").is_file():
        raise RunNotFound(
            f"{folder.name} has no database yet",
            "wait for its first round; of a run that has ended, see what its folder still has",
        )
    from hypergpu_fl.dashboard.run_view import RunView
    from hypergpu_fl.server.round_tables import last_rows

    view, now_s = RunView(folder), None
    records, last = registered(folder) or _joined(view), last_rows(folder)
    simulated = view.settings().get("network", {}).get("enable_simulation", False)
    if simulated:  # its seconds are virtual: no clock but its own newest entry tells how old one is
        now_s = max((record.heartbeat_s or 0.0 for record in records), default=0.0)
    view.close()
    render(
        [_row(record, last.get(record.name, {}), now_s) for record in records],
        format,
        title=f"{amount(len(records), 'node')} of {folder.name}" + (", on its virtual clock" if simulated else ""),
        spare=_SPARE,
    )
    if format is Format.DEFAULT:
        for reason in _turned_away(folder):
            typer.echo(f"could not take part: {printable(redact(reason))}")


def _turned_away(folder: Path) -> list[str]:
    """Why nodes could not take part, with their names: from the report, or a checkpoint of later rounds."""
    from hypergpu_fl.server.checkpoint import state_of
    from hypergpu_fl.server.resumption import FOLDER

    try:
        told = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        told = {}
    saved = state_of(folder / FOLDER) or {}
    if len(saved.get("history", ())) > told.get("rounds", 0):
        told = saved
    return [str(reason) for reason in (told.get("unfit") or {}).values()]


def _joined(view: RunView) -> list[NodeRecord]:
    """Nodes that the log knows, of a run whose first round is not in its books yet."""
    from hypergpu_fl.network.registry import NodeRecord

    view.poll(whole=True)
    return [NodeRecord(node["name"], "", 0.0) for node in view.nodes()]


def _row(record: NodeRecord, last: Mapping[str, Any], now_s: float | None) -> dict[str, Any]:
    device = record.device
    return {
        "node": record.name,
        "address": record.address or None,
        "device": device.get("gpu") or device.get("device") or device.get("cpu"),
        "status": record.status,
        "rtt_ms": _scaled(record.rtt_s, 1e3),
        "jitter_ms": _scaled(record.jitter_s, 1e3),
        "packet_loss": record.loss_rate,
        "up_mbps": _scaled(record.uplink_bps, 1e-6),
        "down_mbps": _scaled(record.downlink_bps, 1e-6),
        "quality": record.quality,
        "steps": last.get("steps"),
        "train_loss": last.get("train_loss"),
        "codec": record.codec or None,
        "bytes_up": record.bytes_up,
        "success_rate": record.success_rate,
        **_seen(record.last_seen_s, now_s),
        "last_failure": record.last_failure or None,
    }


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _seen(seen_s: float | None, now_s: float | None) -> dict[str, Any]:
    """When a node answered last: a moment, or on a virtual clock the seconds since then."""
    if now_s is None:
        return {"last_seen": _moment(seen_s)}
    return {"seen_s_ago": None if seen_s is None else max(0.0, now_s - seen_s)}


def _moment(seconds: float | None) -> str | None:
    return seconds and datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds") or None
