"""The run database: the ledger's tables, and the engine on them.

SQLite in WAL mode by default, PostgreSQL by URL. What is written and read is in `hypergpu_fl.ledger.books`.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Dialect,
    Engine,
    ExceptionContext,
    ForeignKeyConstraint,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    TypeDecorator,
    UniqueConstraint,
    create_engine,
    event,
)

from hypergpu_fl.errors import BooksDamaged, LedgerError


class Uint256(TypeDecorator[int]):
    """Integer up to 256 bits, signed or not, as decimal text: no SQL integer is wide enough for wei."""

    impl = String(78)
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Dialect) -> str | None:
        """Convert Python to SQL."""
        return None if value is None else str(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> int | None:
        """Convert SQL to Python."""
        return None if value is None else int(value)


LOCKED_LIMIT_S = 30.0  # a backup or a viewer may hold the file for this long

metadata = MetaData()

sessions = Table(
    "sessions",
    metadata,
    Column("id", LargeBinary(32), primary_key=True),
    Column("salt", LargeBinary(32), nullable=False),
    Column("chain_id", BigInteger, nullable=False),
    Column("contract", String(42), nullable=False),
    Column("coordinator", String(42), nullable=False),
    Column("budget", Uint256, nullable=False),  # wei a round
    Column("base_pay", Integer, nullable=False),  # parts per million of the budget that are paid by work
    Column("simulated_keys", Integer, nullable=False),  # 1: nodes' keys derive from a public seed
)

rounds = Table(
    "rounds",
    metadata,
    Column("session", LargeBinary(32), primary_key=True),
    Column("round", Integer, primary_key=True, autoincrement=False),
    Column("base_model", LargeBinary(32), nullable=False),
    Column("model", LargeBinary(32), nullable=False),
    Column("root", LargeBinary(32), nullable=False),
    Column("rewards_root", LargeBinary(32), nullable=False),
    Column("owed", Uint256, nullable=False),
    Column("before", LargeBinary(32), nullable=False),
    Column("head", LargeBinary(32), nullable=False),
    Column("log_head", LargeBinary(32)),  # NULL if the run kept no event log
    Column("pricing", JSON),  # how the scores came about; NULL if that is not recorded
    Column("stats", JSON, nullable=False),
    ForeignKeyConstraint(["session"], ["sessions.id"]),
)

contributions = Table(
    "contributions",
    metadata,
    Column("session", LargeBinary(32), primary_key=True),
    Column("sealed_round", Integer, primary_key=True, autoincrement=False),
    Column("index", Integer, primary_key=True, autoincrement=False),
    Column("round", Integer, nullable=False),  # the round it was made for
    Column("node", String(42), nullable=False, index=True),
    Column("base_model", LargeBinary(32), nullable=False),
    Column("update_hash", LargeBinary(32), nullable=False),
    Column("examples", BigInteger, nullable=False),
    Column("metrics_hash", LargeBinary(32), nullable=False),
    Column("signature", LargeBinary(65), nullable=False),
    Column("weight", BigInteger, nullable=False),
    Column("score", Uint256, nullable=False),
    Column("reward", Uint256, nullable=False),
    Column("duplicate_of", String(42), nullable=False),
    UniqueConstraint("session", "round", "node"),  # one round's work counts once, whenever it arrives
    ForeignKeyConstraint(["session", "sealed_round"], ["rounds.session", "rounds.round"]),
)

refusals = Table(
    "refusals",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("session", LargeBinary(32), nullable=False),
    Column("round", Integer, nullable=False),
    Column("node", String(42), nullable=False),
    Column("reason", String(64), nullable=False),
    Column("detail", String, nullable=False),
    ForeignKeyConstraint(["session", "round"], ["rounds.session", "rounds.round"]),
)

rewards = Table(
    "rewards",
    metadata,
    Column("session", LargeBinary(32), primary_key=True),
    Column("round", Integer, primary_key=True, autoincrement=False),
    Column("account", String(42), primary_key=True),
    Column("reward", Uint256, nullable=False),
    Column("cumulative", Uint256, nullable=False),
    ForeignKeyConstraint(["session", "round"], ["rounds.session", "rounds.round"]),
)

seals = Table(  # the coordinator's signature over the books of a run that has ended
    "seals",
    metadata,
    Column("session", LargeBinary(32), primary_key=True),
    Column("rounds", Integer, primary_key=True, autoincrement=False),
    Column("head", LargeBinary(32), nullable=False),
    Column("document", LargeBinary(32), nullable=False),
    Column("signature", LargeBinary(65), nullable=False),
    ForeignKeyConstraint(["session"], ["sessions.id"]),
)


def connect(location: Path | str) -> Engine:
    """Engine on a SQLite file, or on any database by URL.

    SQLite runs in WAL mode, so that the dashboard can read while a round is written, and with full synchronisation, so
    that a sealed round survives a power cut. What cannot be read or written is named by `refusal`.
    """
    if isinstance(location, str) and "://" in location:
        return create_engine(location)
    engine = create_engine(f"sqlite:///{location}", connect_args={"timeout": LOCKED_LIMIT_S})

    @event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, _record: object) -> None:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA foreign_keys=ON")
        except sqlite3.DatabaseError as error:  # SQLAlchemy does not pass errors in this event to the one below
            raise refusal(error, location) or error from None

    return with_refusals(engine, location)


def with_refusals(engine: Engine, location: Path | str) -> Engine:
    """The engine, whose errors are named by `refusal`."""

    @event.listens_for(engine, "handle_error")
    def _name(context: ExceptionContext) -> None:
        if named := refusal(context.original_exception, location):
            raise named

    return engine


def refusal(error: BaseException, location: Path | str) -> LedgerError | None:
    """What an error of SQLite's means for whoever uses the database, where that is known."""
    text = str(error)
    if "readonly database" in text or "unable to open database file" in text:
        return LedgerError(
            f"{location} cannot be opened: SQLite writes into its folder even to read",
            "mend the rights of file and folder, or copy the folder to where you may write",
        )
    if "disk is full" in text:
        return LedgerError(f"no space is left on the disk of {location}", "make room, and do it again")
    if "malformed" in text or "not a database" in text:
        return BooksDamaged(
            f"{location} cannot be read: {text}",
            "bring it back from a copy; a ledger.json beside it holds what was sealed, see `hypergpu ledger verify`",
        )
    if "database is locked" not in text:
        return None
    return LedgerError(
        f"{location} has been locked by another program for {LOCKED_LIMIT_S:.0f} s",
        "close what has it open, such as a viewer or a backup; then `hypergpu run --resume` goes on",
    )
