"""A sealed round as a browser needs it for verification: every leaf's fields and proof, the roots, and both heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import create_engine

from hypergpu_fl.chain.presets import preset_of
from hypergpu_fl.errors import LedgerError
from hypergpu_fl.ledger.books import Books, read_session
from hypergpu_fl.ledger.bundle import round_record
from hypergpu_fl.ledger.database import with_refusals


def sealed_round(folder: Path, round: int) -> dict[str, Any]:
    """A round from a run's database, which is opened read-only.

    Raises
    ------
    LedgerError
        If the run has not sealed it, or its database cannot be read.
    """
    path = folder / "run.db"
    engine = with_refusals(create_engine(f"sqlite:///file:{path.resolve()}?mode=ro&uri=true"), path)
    try:
        with engine.connect() as connection:
            session = read_session(connection) if path.is_file() else None
            rounds = Books(session["id"]).sealed_rounds(connection, only=round) if session else []
    finally:
        engine.dispose()
    if session is None or not rounds:
        raise LedgerError(f"round {round} of {folder.name} is not sealed", "wait for it")
    record = round_record(rounds[0], None).model_dump(mode="json")
    preset = preset_of(session["chain_id"])
    return {
        "session": "0x" + session["id"].hex(),
        "chain_id": session["chain_id"],
        "explorer": preset.explorer if preset else None,
        "before": "0x" + rounds[0].before.hex(),
        **record,
    }
