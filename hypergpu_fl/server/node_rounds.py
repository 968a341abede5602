"""What each node did in each round: rows in the run's database, and in ``report.json`` and ``nodes.csv`` at its end.

A row is an order of the round, or a reply in it to an order of an earlier one. A node that failed, or was done early,
may be asked again in the same round: ``attempt`` numbers its rows of the round from 1, ``ordered`` is the round in
which the work was given. Its verdict:

counted   the update counted in the round it was ordered in
late      the update counted, but was ordered in an earlier round
refused   the reply did not count; ``refusal`` says why
working   no reply yet; a row of a later round tells what came of it
dropped   no reply, and the policy gave it up at the end of the round

``samples`` are examples, ``count`` is what the task counts, in its own unit.

Bytes are those that moved in the round: a late reply's row has none down. Seconds are on the run's clock; a part is
None where nobody measured it.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from sqlalchemy import JSON, Column, Engine, Index, Integer, MetaData, Table, delete, inspect, select
from sqlalchemy import insert as insert_

from hypergpu_fl.ledger.database import connect
from hypergpu_fl.output import printable
from strategies import wire
from strategies.outcome import Accepted, Journey, Ordered, RefusedReply, RoundOutcome

Row = dict[str, Any]

MOST_COLUMNS: Final = 64  # of custom metrics in the CSV: the commonest, should nodes name theirs differently

metadata = MetaData()

node_rounds = Table(
    "node_rounds",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("round", Integer, nullable=False),
    Column("row", JSON, nullable=False),
    Index("node_rounds_of_round", "round"),
)


class NodeRounds:
    """Keeps every round's rows in the database.

    Parameters
    ----------
    engine : Engine
        The run's database.
    last_round : int
        The newest round in the books; what was kept of later ones is forgotten.
    """

    def __init__(self, engine: Engine, *, last_round: int) -> None:
        self._engine = engine
        metadata.create_all(engine)
        with engine.begin() as connection:
            connection.execute(delete(node_rounds).where(node_rounds.c.round > last_round))

    def closed(self, outcome: RoundOutcome) -> None:
        """Keep the rows of a closed round."""
        rows = [{"round": outcome.round, "row": row} for row in rows_of(outcome)]
        if rows:
            with self._engine.begin() as connection:
                connection.execute(insert_(node_rounds), rows)

    def rows(self) -> list[Row]:
        """All rows of the run, in the order of rounds and of nodes' names."""
        with self._engine.connect() as connection:
            return list(connection.execute(select(node_rounds.c.row).order_by(node_rounds.c.id)).scalars())


def last_rows(folder: Path) -> dict[str, Row]:
    """What is known last of each node of a run, field by field, by its name; none before the first round."""
    engine = connect(folder / "run.db")
    try:
        with engine.connect() as connection:
            if not inspect(engine).has_table(node_rounds.name):
                return {}
            rows = connection.execute(select(node_rounds.c.row).order_by(node_rounds.c.id)).scalars()
            last: dict[str, Row] = {}
            for row in rows:
                last.setdefault(row["node"], {}).update((k, value) for k, value in row.items() if value is not None)
            return last
    finally:
        engine.dispose()


def rows_of(outcome: RoundOutcome) -> list[Row]:
    """One row an order of the round and a late reply in it, by the nodes' names."""
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
    rows.sort(key=lambda row: _by_number(row["node"]))
    attempts: Counter[str] = Counter()
    for row in rows:
        attempts[row["node"]] += 1
        row["attempt"] = attempts[row["node"]]
    return rows


def as_csv(rows: Sequence[Row]) -> str:
    """``rows`` as a table with a header; custom metrics as columns ``metrics.NAME``, missing values empty."""
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
    """Rows of each round, without the round."""
    rounds: dict[int, list[Row]] = {}
    for row in rows:
        rounds.setdefault(row["round"], []).append({key: value for key, value in row.items() if key != "round"})
    return rounds


def _row(**known: Any) -> Row:
    """One row: every field there is, in order."""
    fields = (
        "round node attempt ordered verdict refusal steps samples count train_loss codec bytes_down bytes_up "
        "download_s compute_s upload_s total_s weight staleness"
    )
    return {**dict.fromkeys(fields.split()), "metrics": {}, **known}


def _answered(round_: int, reply: Accepted | RefusedReply, *, bytes_down: int) -> Row:
    journey: Journey = reply.journey
    samples = journey.metrics.get(wire.SAMPLES)
    row = _row(
        round=round_,
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
        return row | {"verdict": "refused", "refusal": " ".join(text.split())}
    verdict = "counted" if journey.round == round_ else "late"
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


def _by_number(name: str) -> tuple[str, int]:
    """``node-10`` after ``node-9``."""
    stem, _, number = name.rpartition("-")
    return (stem, int(number)) if number.isdecimal() else (name, 0)
