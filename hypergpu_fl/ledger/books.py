"""The books of a session in the run database: rounds written as they are sealed, and the history read back.

Every writer passes its own connection, so that a round, its contributions and the outbox entry that will commit it go
into one transaction.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Table, delete, insert, select

from hypergpu_fl.ledger.contribution import SealedContribution
from hypergpu_fl.ledger.database import Uint256, contributions, refusals, rewards, rounds, seals, sessions
from hypergpu_fl.ledger.pricing import Pricing
from hypergpu_fl.ledger.rewards import Pay, RewardDistribution, summed
from hypergpu_fl.ledger.sealing import Refusal, RoundSeal, SealedRound, paid_entries


class Books:
    """Reads and writes of one session's history.

    Parameters
    ----------
    session : bytes
        Session id; its row is written by `open_session`.
    """

    def __init__(self, session: bytes) -> None:
        self.session = session

    def record(self, connection: Connection, sealed: SealedRound) -> None:
        """Write a sealed round with its contributions, refusals and rewards."""
        seal, session = sealed.seal, self.session
        connection.execute(
            insert(rounds),
            dict(
                session=session,
                round=seal.round,
                base_model=seal.base_model,
                model=seal.model,
                root=sealed.root,
                rewards_root=sealed.rewards_root,
                owed=sealed.owed,
                before=sealed.before,
                head=sealed.head,
                log_head=seal.log_head,
                pricing=seal.pricing.model_dump(mode="json") if seal.pricing else None,
                stats=dict(seal.stats),
            ),
        )
        written = {"session": session, "round": seal.round}
        earned = summed((c.credited.node, c.reward) for c in sealed.contributions)
        entries = [{"session": session, "sealed_round": seal.round} | c.fields() for c in sealed.contributions]
        _insert(connection, contributions, entries)
        refused = [written | dict(node=r.node, reason=r.reason, detail=r.detail) for r in seal.refused]
        _insert(connection, refusals, refused)
        paid = [
            written | dict(account=account, reward=reward, cumulative=sealed.rewards.cumulative[account])
            for account, reward in earned.items()
        ]
        _insert(connection, rewards, paid)

    def record_end(
        self, connection: Connection, *, rounds: int, head: bytes, document: bytes, signature: bytes
    ) -> None:
        """Write the signature under a run that has ended; it replaces one after the same number of rounds."""
        connection.execute(delete(seals).where(seals.c.session == self.session, seals.c.rounds == rounds))
        fields = {"rounds": rounds, "head": head, "document": document, "signature": signature}
        connection.execute(insert(seals), fields | {"session": self.session})

    def end(self, connection: Connection) -> dict[str, Any] | None:
        """Return the signature under the run's latest end; None if it has not ended."""
        query = select(seals.c.rounds, seals.c.head, seals.c.document, seals.c.signature)
        query = query.where(seals.c.session == self.session).order_by(seals.c.rounds.desc()).limit(1)
        row = connection.execute(query).mappings().first()
        return dict(row) if row is not None else None

    def last(self, connection: Connection) -> tuple[int, bytes]:
        """Return number and head of the last sealed round; 0 and the session id before the first."""
        query = select(rounds.c.round, rounds.c.head).where(rounds.c.session == self.session)
        row = connection.execute(query.order_by(rounds.c.round.desc()).limit(1)).first()
        return (row.round, row.head) if row else (0, self.session)

    def last_model(self, connection: Connection) -> bytes | None:
        """Return the hash of the model after the last sealed round; None before the first."""
        query = select(rounds.c.model).where(rounds.c.session == self.session).order_by(rounds.c.round.desc()).limit(1)
        found: bytes | None = connection.execute(query).scalar()
        return found

    def knows(self, connection: Connection, model: bytes) -> bool:
        """Whether any sealed round began with this model or ended with it."""
        which = (rounds.c.model == model) | (rounds.c.base_model == model)
        query = select(rounds.c.round).where(rounds.c.session == self.session, which).limit(1)
        return connection.execute(query).first() is not None

    def distribution(self, connection: Connection, *, upto: int | None = None) -> RewardDistribution:
        """Cumulative earnings and standings after round `upto`, the last one if None."""
        query = select(rounds.c.round, rounds.c.pricing).where(rounds.c.session == self.session)
        scored = select(
            contributions.c.sealed_round, contributions.c.node, contributions.c.score, contributions.c.reward
        ).where(contributions.c.session == self.session)
        if upto is not None:
            query, scored = query.where(rounds.c.round <= upto), scored.where(contributions.c.sealed_round <= upto)
        rows: dict[int, list[Any]] = {}
        for row in connection.execute(scored.order_by(contributions.c.sealed_round, contributions.c.index)):
            rows.setdefault(row.sealed_round, []).append(row)
        distribution, pay = RewardDistribution(self.session, {}), self._pay(connection)
        for sealed in connection.execute(query.order_by(rounds.c.round)):
            found = rows.get(sealed.round, [])
            entries = paid_entries([(r.node, r.score) for r in found], _pricing(sealed))
            distribution = distribution.after(entries, [r.reward for r in found], pay)
        return distribution

    def _pay(self, connection: Connection) -> Pay:
        query = select(sessions.c.budget, sessions.c.base_pay).where(sessions.c.id == self.session)
        row = connection.execute(query).one()
        return Pay(row.budget, row.base_pay)

    def sealed_rounds(self, connection: Connection, *, only: int | None = None) -> list[SealedRound]:
        """Read the history in order, or only one round of it."""
        distribution = RewardDistribution(self.session, {})
        which = rounds.c.session == self.session
        if only is not None:
            which &= rounds.c.round == only
            distribution = self.distribution(connection, upto=only - 1)
        history: list[SealedRound] = []
        pay = self._pay(connection)
        for row in connection.execute(select(rounds).where(which).order_by(rounds.c.round)).all():
            found = self._rows(connection, contributions, row.round).all()
            sealed = [SealedContribution.of_fields(self.session, r) for r in found]
            refused = [Refusal(r.node, r.reason, r.detail) for r in self._rows(connection, refusals, row.round)]
            credited = [s.credited for s in sealed]
            seal = RoundSeal(
                row.round, row.base_model, row.model, credited, refused, row.stats, row.log_head, _pricing(row)
            )
            distribution = distribution.after(seal.entries, [s.reward for s in sealed], pay)
            history.append(SealedRound(seal, sealed, distribution, row.root, row.rewards_root, row.before, row.head))
        return history

    def rounds_with(self, connection: Connection, node: str, *, after: int, upto: int) -> list[int]:
        """Rounds ``after + 1 .. upto`` that sealed something of a node, in order."""
        sealed = contributions.c.sealed_round
        query = select(sealed).where(contributions.c.session == self.session, contributions.c.node == node)
        query = query.where(sealed > after, sealed <= upto).distinct().order_by(sealed)
        return list(connection.execute(query).scalars())

    def _rows(self, connection: Connection, table: Table, round: int) -> Any:
        column = table.c.sealed_round if table is contributions else table.c.round
        order = table.c.index if table is contributions else table.c.id
        return connection.execute(select(table).where(table.c.session == self.session, column == round).order_by(order))


def read_session(connection: Connection) -> dict[str, Any] | None:
    """Return the fields of the database's session; None before one was opened."""
    row = connection.execute(select(sessions)).mappings().first()
    return {**row, "simulated_keys": bool(row["simulated_keys"])} if row is not None else None


def open_session(connection: Connection, session: Mapping[str, Any]) -> None:
    """Write the session's row."""
    connection.execute(insert(sessions), dict(session))


def _insert(connection: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    """Insert many rows with the same keys through the driver itself.

    SQLAlchemy converts every value of every row, which takes three times as long as SQLite's insertion, and a round
    waits for it.
    """
    if not rows:
        return
    statement = insert(table).compile(dialect=connection.dialect, column_keys=list(rows[0]))
    wide = {column.name for column in table.columns if isinstance(column.type, Uint256)} & rows[0].keys()
    plain = [row | {name: str(row[name]) for name in wide} for row in rows]
    order = statement.positiontup
    values: list[Any] = [tuple(row[name] for name in order) for row in plain] if order else plain
    connection.exec_driver_sql(str(statement), values)


def _pricing(row: Any) -> Pricing | None:
    return Pricing.model_validate_json(json.dumps(row.pricing)) if row.pricing is not None else None
