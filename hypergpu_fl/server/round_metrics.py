"""What the server measured of each round's model: in the run's database, for those who watch a run under way."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import JSON, Column, Engine, Integer, MetaData, Table, delete, insert

metadata = MetaData()

round_metrics = Table(
    "round_metrics",
    metadata,
    Column("round", Integer, primary_key=True, autoincrement=False),
    Column("metrics", JSON, nullable=False),
)


class RoundMetrics:
    """Keeps every round's metrics in the database.

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
            connection.execute(delete(round_metrics).where(round_metrics.c.round > last_round))

    def closed(self, round_: int, metrics: Mapping[str, float]) -> None:
        """Keep the metrics of a closed round; what is no number is kept as null."""
        finite = {name: value if abs(value) < float("inf") else None for name, value in metrics.items()}
        with self._engine.begin() as connection:
            connection.execute(insert(round_metrics).values(round=round_, metrics=finite))
