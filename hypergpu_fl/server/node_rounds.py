"""What each node did in each round, as rows: in the run's database, and finally in ``report.json`` and ``nodes.csv``.

A row stands for an order of the round, or for a reply that came in it to an earlier round's order. A node that failed
or finished early may be asked again in the same round: ``attempt`` numbers its rows of the round from 1. ``ordered`` is
the round in which the work was given. The verdict is one of:

counted   the update counted in the round it was ordered in
late      the update counted, but was ordered in an earlier round
refused   the reply did not count; ``refusal`` says why
left      no reply: the node or its machine went; ``refusal`` says how that was seen
working   no reply yet; a later round has a row for its outcome
dropped   no reply, and the policy gave up on it at the end of the round

``samples`` are examples; ``count`` is in the task's own unit. Bytes are those that moved in this round, so the row of a
late reply has no bytes down. Seconds are on the run's clock, None where nobody measured them.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

from hypergpu_fl.output import by_number, printable
from strategies import wire
from strategies.errors import Reason
from strategies.outcome import Accepted, Journey, Ordered, RefusedReply, RoundOutcome

Row = dict[str, Any]

MOST_COLUMNS: Final = 64  # of custom metrics in the CSV: the most common ones, if nodes use different names


def node_rows(outcome: RoundOutcome) -> list[Row]:
    """One row for each order of the round and for each late reply, sorted by the nodes' names."""
    unanswered: dict[int, list[Ordered]] = {}
    for ordered in outcome.ordered:
        unanswered.setdefault(ordered.row, []).append(ordered)
    rows = []
    replies: list[Accepted | RefusedReply] = [*outcome.refused, *outcome.accepted]
    for reply in sorted(replies, key=lambda reply: reply.journey.round):
        in_time = reply.journey.round == outcome.round and unanswered.get(reply.row)
        bytes_down = unanswered[reply.row].pop(0).bytes_down if in_time else 0
        rows.append(_answered(outcome.round, reply, bytes_down=bytes_down))
    for orders in unanswered.values():
        rows += [_unanswered(outcome, ordered) for ordered in orders]
    rows.sort(key=lambda row: by_number(row["node"]))
    attempts: Counter[str] = Counter()
    for row in rows:
        attempts[row["node"]] += 1
        row["attempt"] = attempts[row["node"]]
    return rows


def as_csv(rows: Sequence[Row]) -> str:
    """``rows`` as CSV with a header. Custom metrics become columns ``metrics.NAME``; missing values are empty."""
    seen = Counter(name for row in rows for name in row["metrics"])
    names = sorted(name for name, _ in seen.most_common(MOST_COLUMNS))
    text = io.StringIO()
    writer = csv.DictWriter(
        text,
        [*(key for key in _row() if key != "metrics"), *(f"metrics.{name}" for name in names)],
        lineterminator="\n",
    )
    writer.writeheader()
    for row in rows:
        plain = {key: value for key, value in row.items() if key != "metrics"}
        plain["refusal"] = row["refusal"] and printable(row["refusal"])
        writer.writerow(plain | {f"metrics.{name}": row["metrics"].get(name) for name in names})
    return text.getvalue()


def by_round(rows: Iterable[Row]) -> dict[int, list[Row]]:
    """The rows of each round, without their field ``round``."""
    rounds: dict[int, list[Row]] = {}
    for row in rows:
        rounds.setdefault(row["round"], []).append({key: value for key, value in row.items() if key != "round"})
    return rounds


def _row(**known: Any) -> Row:
    """A row with all fields in order, empty where nothing is known."""
    fields = (
        "round node attempt ordered verdict refusal steps samples count train_loss codec bytes_down bytes_up "
        "download_s compute_s upload_s total_s weight staleness"
    )
    return {**dict.fromkeys(fields.split()), "metrics": {}, **known}


def _answered(round: int, reply: Accepted | RefusedReply, *, bytes_down: int) -> Row:
    journey: Journey = reply.journey
    samples = journey.metrics.get(wire.SAMPLES)
    row = _row(
        round=round,
        node=reply.node,
        ordered=journey.round,
        steps=journey.steps,
        samples=None if samples is None else int(samples),
        count=None if (count := journey.metrics.get(wire.COUNT)) is None else int(count),
        train_loss=journey.metrics.get(wire.LOSS),
        codec=journey.codec,
        bytes_down=bytes_down,
        bytes_up=journey.bytes_up,
        download_s=journey.download_s,
        compute_s=journey.compute_s,
        upload_s=journey.upload_s,
        total_s=journey.total_s,
        metrics=wire.custom_metrics(journey.metrics),
    )
    if isinstance(reply, RefusedReply):
        text = f"{reply.reason}: {reply.detail}" if reply.detail else str(reply.reason)
        verdict = "left" if reply.reason is Reason.LEFT else "refused"
        return row | {"verdict": verdict, "refusal": " ".join(text.split())}
    verdict = "counted" if journey.round == round else "late"
    return row | {"verdict": verdict, "weight": reply.weight, "staleness": reply.staleness, "bytes_up": reply.bytes_up}


def _unanswered(outcome: RoundOutcome, ordered: Ordered) -> Row:
    return _row(
        round=outcome.round,
        node=ordered.node,
        ordered=outcome.round,
        verdict="dropped" if ordered.row in outcome.dropped else "working",
        steps=ordered.steps,
        codec=ordered.codec,
        bytes_down=ordered.bytes_down,
        bytes_up=0,
    )
