"""The event log compared with the heads that a ledger's rounds seal."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from itertools import takewhile
from pathlib import Path
from typing import Final

from hypergpu_fl.errors import LedgerError, VerificationError
from hypergpu_fl.ledger.bundle import RoundRecord, read_bundle
from strategies.round.lines import read_hash

Heads = Mapping[int, bytes]
"""Round -> head of the event log that it seals, in the rounds' order; a round that seals none is left out."""

_REMEDY: Final = "the event log was altered, was cut off, or belongs to another run; take it from its source again"


def heads_of(rounds: Iterable[RoundRecord]) -> Heads:
    """The heads that these rounds seal."""
    return {record.round: record.log_head for record in rounds if record.log_head is not None}


def heads_in(database: Path, bundle: Path) -> Heads | None:
    """Read the heads that a run's books seal: from its database, which may be in use, else from its exported bundle.

    A database that seals no round does not speak against the bundle: it may have been emptied.

    Returns
    -------
    Heads, optional
        None where there are no books.

    Raises
    ------
    LedgerError
        If the books cannot be read.
    """
    if database.is_file():
        query = (
            "SELECT CAST(round AS INTEGER), CAST(log_head AS BLOB) FROM rounds WHERE log_head IS NOT NULL ORDER BY 1"
        )
        try:
            with closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)) as connection:
                known = connection.execute("SELECT name FROM sqlite_master WHERE name = 'rounds'").fetchone()
                heads = dict(connection.execute(query)) if known else {}
        except sqlite3.Error as error:
            from hypergpu_fl.ledger.database import refusal  # loads SQLAlchemy, which is needed for nothing else here

            if named := refusal(error, database):
                raise named from error
            remedy = "close what else uses it, or take it from its source again"
            raise LedgerError(f"{database} cannot be read: {error}", remedy) from error
        if heads or not bundle.is_file():
            return heads
    return heads_of(read_bundle(bundle).rounds) if bundle.is_file() else None


def verify_log(heads: Heads, lines: Iterable[bytes]) -> None:
    """Look for every sealed head among the hashes of a log's lines, in the rounds' order.

    Lines after the last sealed head belong to no sealed round and are not read.

    Raises
    ------
    VerificationError
        At the first line whose hash does not fit its content and the line before it, or at the first round whose head
        is the hash of no line.
    """
    before, rest = "", enumerate(takewhile(lambda line: line.endswith(b"\n"), lines))
    for sealed, sealed_head in heads.items():
        for number, line in rest:
            head = read_hash(line.rstrip(b"\n"), before)
            if head is None:
                raise VerificationError(
                    f"round {sealed}: line {number} of the event log has a hash that does not fit what it says", _REMEDY
                )
            before = head
            if head == sealed_head.hex():
                break
        else:
            raise VerificationError(f"round {sealed}: the hash that it seals is no line's of the log", _REMEDY)
