"""What the server keeps of every round in the run's database, so that a run can be watched while it is under way.

``round_metrics`` holds what the server measured of each round's model, ``node_rounds`` what each node did in it; see
`hypergpu_fl.server.node_rounds` for the fields of a row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from sqlalchemy import JSON, Column, Engine, Index, Integer, MetaData, Table, delete, insert, inspect, select

from hypergpu_fl.ledger.database import connect
from hypergpu_fl.server.node_rounds import Row

metadata = MetaData()

round_metrics = Table(
    "round_metrics",
    metadata,
    Column("round", Integer, primary_key=True, autoincrement=False),
    Column("metrics", JSON, nullable=False),
)

node_rounds = Table(
    "node_rounds",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("round", Integer, nullable=False),
    Column("row", JSON, nullable=False),
    Index("node_rounds_of_round", "round"),
)


class RoundTables:
    """Both tables of a run.

    Parameters
    ----------
    engine : Engine
        The run's database.
    last_round : int
        The newest round in the books. Rows of later rounds are removed, since those rounds were lost.
    """

    def __init__(self, engine: Engine, *, last_round: int) -> None:
        self._engine = engine
        metadata.create_all(engine)
        with engine.begin() as connection:
            for table in (round_metrics, node_rounds):
                connection.execute(delete(table).where(table.c.round > last_round))

    def add(self, round: int, metrics: Mapping[str, float], rows: Sequence[Row]) -> None:
        """Keep a closed round: the model's metrics, null where one is not finite, and the nodes' rows."""
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        with self._engine.begin() as connection:
            connection.execute(insert(round_metrics).values(round=round, metrics=finite))
            if rows:
                connection.execute(insert(node_rounds), [{"round": round, "row": row} for row in rows])

    def rows(self) -> list[Row]:
        """All nodes' rows, by round and by the nodes' names."""
        with self._engine.connect() as connection:
            return list(connection.execute(_ROWS).scalars())


def last_rows(folder: Path) -> dict[str, Row]:
    """For each node of a run, by name, the newest value of every field; empty before the first round."""
    engine = connect(folder / "run.db")
    try:
        if not inspect(engine).has_table(node_rounds.name):
            return {}
        last: dict[str, Row] = {}
        with engine.connect() as connection:
            for row in connection.execute(_ROWS).scalars():
                last.setdefault(row["node"], {}).update((k, value) for k, value in row.items() if value is not None)
        return last
    finally:
        engine.dispose()


_ROWS = select(node_rounds.c.row).order_by(node_rounds.c.id)
