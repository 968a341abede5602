"""Who was there in a run, who was asked and what was lost, from its ``events.jsonl`` without the app's own fold."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Attendance:
    """What became of the nodes of a run."""

    asked: dict[int, set[str]] = field(default_factory=dict)  # round -> nodes that got work
    passed_over: dict[int, set[str]] = field(default_factory=dict)  # round -> nodes there, idle, and given none
    lost: dict[str, list[str]] = field(default_factory=dict)  # node -> why its work came to nothing
    away_s: dict[str, list[float]] = field(default_factory=dict)  # node -> how long it was gone, each time


def attendance(lines: Iterable[str]) -> Attendance:
    """Fold the lines of a log."""
    found, rows, orders = Attendance(), list[str](), dict[int, int]()
    there, gone_s = set[int](), dict[int, float]()

    def leaves(row: int, at_s: float) -> None:
        there.discard(row)
        gone_s.setdefault(row, at_s)

    def comes(row: int, at_s: float) -> None:
        there.add(row)
        if row in gone_s:
            found.away_s.setdefault(rows[row], []).append(at_s - gone_s.pop(row))

    for entry in map(json.loads, lines):
        event: Mapping[str, Any] = entry.get("event", {})
        kind, at_s = event.get("kind"), event.get("at_s", 0.0)
        if kind == "joined":
            if event["name"] not in rows:
                rows.append(event["name"])
            comes(rows.index(event["name"]), at_s)
        elif kind in ("left", "returned"):
            for row in event["rows"]:
                leaves(row, at_s) if kind == "left" else comes(row, at_s)
        elif kind == "resumed":
            there.clear()
            if not event["in_flight"]:
                orders.clear()
        elif kind == "failed":
            row = orders.pop(event["order"], None)
            if row is not None:
                found.lost.setdefault(rows[row], []).append(event["detail"])
                if event["left"]:
                    leaves(row, at_s)
        elif kind == "answered":
            orders.pop(event["order"], None)
        elif kind == "ended":
            for order in event["given_up"]:
                if (row := orders.pop(order, None)) is not None:
                    found.lost.setdefault(rows[row], []).append("given up")
        elif kind == "round due":
            sent = {one["order"]: one["row"] for one in entry["commands"] if one["kind"] == "send"}
            found.asked[event["number"]] = {rows[row] for row in sent.values()}
            idle = there - set(orders.values()) - set(sent.values())
            found.passed_over[event["number"]] = {rows[row] for row in idle}
            orders |= sent
    return found
