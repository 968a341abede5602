"""Reading the books in a run's folder: from its live database, or from the bundle that was exported from it."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from sqlalchemy import Engine, inspect
from sqlalchemy.exc import DatabaseError

from hypergpu_fl.chain.embedded import CHAIN_ID
from hypergpu_fl.chain.outbox import EntryState, Outbox, OutboxEntry
from hypergpu_fl.errors import BooksDamaged, NoBooks
from hypergpu_fl.ledger import database
from hypergpu_fl.ledger.books import Books, read_session
from hypergpu_fl.ledger.bundle import (
    BUNDLE,
    FORMAT,
    BooksSeal,
    Bundle,
    SessionRecord,
    TransactionRecord,
    read_bundle,
    round_record,
)

DATABASE: Final = "run.db"

_STATES: Final[dict[EntryState, Literal["SIGNED", "SENT", "INCLUDED", "FINALIZED"]]] = {
    EntryState.SIGNED: "SIGNED",
    EntryState.SENT: "SENT",
    EntryState.INCLUDED: "INCLUDED",
    EntryState.FINALIZED: "FINALIZED",
}


def read_record(engine: Engine) -> SessionRecord | None:
    """Return the session that a run database belongs to; None if it is new."""
    with engine.connect() as connection:
        row = read_session(connection)
    return SessionRecord.model_validate(row) if row is not None else None


def books_as_bundle(engine: Engine, record: SessionRecord, outbox: Outbox | None) -> Bundle:
    """Return a run database as a bundle, with the seal of the run's end if the books still are what it signed."""
    entries = outbox.history() if outbox is not None else []
    commits = {entry.intent.round: _transaction(entry) for entry in entries if entry.intent.purpose == "commit"}
    others = [_transaction(entry) for entry in entries if entry.intent.purpose != "commit"]
    with engine.connect() as connection:
        sealed_rounds = Books(record.id).sealed_rounds(connection)
        end = Books(record.id).end(connection)
    bundle = Bundle(
        format=FORMAT,
        session=record,
        transactions=[transaction for transaction in others if transaction is not None],
        rounds=[round_record(sealed, commits.get(sealed.seal.round)) for sealed in sealed_rounds],
        seal=None,
    )
    seal = BooksSeal(ended=True, **end) if end is not None else None
    return bundle.model_copy(update={"seal": seal}) if seal and seal.document == bundle.document() else bundle


def load_books(folder: Path) -> Bundle:
    """Read a run's database, which may belong to a run under way; see `books_and_end`."""
    return books_and_end(folder)[0]


def books_and_end(folder: Path) -> tuple[Bundle, bool]:
    """Read a run's database, and whether the coordinator once signed its end, even if commits have changed since.

    Raises
    ------
    NoBooks
        If the run has opened none yet.
    LedgerError
        If they cannot be read.
    """
    path = folder / DATABASE
    engine = database.connect(path)
    try:
        record = None
        if path.is_file():
            database.metadata.create_all(engine)
            record = read_record(engine)
        if record is None:
            raise NoBooks(f"{folder} holds no ledger", "the run keeps none, or has not opened it yet")
        outbox = Outbox(engine, record.coordinator, record.chain_id) if record.chain_id else None
        bundle = books_as_bundle(engine, record, outbox)
        with engine.connect() as connection:
            end = Books(record.id).end(connection)
        return bundle, end is not None and (end["rounds"], end["head"]) == (len(bundle.rounds), bundle.head)
    finally:
        engine.dispose()


def load_bundle(place: Path) -> Bundle:
    """Read an exported bundle: a file, or ``ledger.json`` in a folder.

    Raises
    ------
    LedgerError
        If there is none.
    VerificationError
        If it does not have a bundle's shape.
    """
    return read_bundle(place / BUNDLE if place.is_dir() else place)


def unsettled(folder: Path) -> int:
    """Count the transactions of a run that its chain has not made final; 0 where the chain died with the run."""
    path = folder / DATABASE
    if not path.is_file():
        return 0
    engine = database.connect(path)
    try:
        if not inspect(engine).has_table("outbox") or (record := read_record(engine)) is None:
            return 0
        if record.chain_id in (0, CHAIN_ID):
            return 0
        return len(Outbox(engine, record.coordinator, record.chain_id).entries(unfinished=True))
    except (BooksDamaged, DatabaseError):  # not a database, or of another release
        return 0
    finally:
        engine.dispose()


def _transaction(entry: OutboxEntry) -> TransactionRecord | None:
    attempt = entry.settled_by
    if attempt is None or entry.state is EntryState.PREPARED:  # PREPARED with an attempt: its nonce was given up
        return None
    return TransactionRecord(
        purpose=entry.intent.purpose,
        hash=attempt.hash,
        raw=attempt.raw,
        state=_STATES[entry.state],
        block=entry.block,
        gas_used=entry.gas_used,
        gas_limit=attempt.gas_limit,
    )
