"""The run database: what goes in comes out, and one round's work counts once."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest
from rounds import a_round
from sqlalchemy.exc import IntegrityError

from hypergpu_fl.errors import BooksDamaged, LedgerError
from hypergpu_fl.ledger import database
from hypergpu_fl.ledger.books import Books, open_session
from hypergpu_fl.ledger.rewards import Pay, RewardDistribution
from hypergpu_fl.ledger.sealing import RoundSeal, SealedRound, seal_round

SESSION = bytes(range(32))


@pytest.fixture
def engine(tmp_path: Path) -> database.Engine:
    engine = database.connect(tmp_path / "run.db")
    database.metadata.create_all(engine)
    fields = {"id": SESSION, "salt": SESSION, "chain_id": 1, "contract": "0x", "coordinator": "0x"}
    with engine.begin() as connection:
        open_session(connection, fields | {"budget": 2**200, "base_pay": 0, "simulated_keys": 1})
    return engine


def history(engine: database.Engine, count: int) -> list[SealedRound]:
    books, head, rewards, sealed_rounds = Books(SESSION), SESSION, RewardDistribution(SESSION, {}), []
    for round in range(1, count + 1):
        sealed = seal_round(a_round(SESSION, round), before=head, rewards=rewards, pay=Pay(2**200))
        head, rewards = sealed.head, sealed.rewards
        with engine.begin() as connection:
            books.record(connection, sealed)
        sealed_rounds.append(sealed)
    return sealed_rounds


def test_history_comes_out_as_it_went_in_amounts_of_256_bits_included(engine: database.Engine) -> None:
    sealed_rounds, books = history(engine, 3), Books(SESSION)
    with engine.connect() as connection:
        assert books.sealed_rounds(connection) == sealed_rounds
        assert books.sealed_rounds(connection, only=2) == sealed_rounds[1:2]
        assert books.last(connection) == (3, sealed_rounds[-1].head)
        assert books.distribution(connection) == sealed_rounds[-1].rewards
        assert books.distribution(connection, upto=1) == sealed_rounds[0].rewards


def test_the_same_work_sealed_in_a_second_round_is_refused_whole(engine: database.Engine) -> None:
    (first,) = history(engine, 1)
    again = RoundSeal(2, first.seal.model, first.seal.model, first.seal.contributions)
    sealed = seal_round(again, before=first.head, rewards=first.rewards, pay=Pay(1))
    with pytest.raises(IntegrityError), engine.begin() as connection:
        Books(SESSION).record(connection, sealed)
    with engine.connect() as connection:
        assert Books(SESSION).last(connection) == (1, first.head)


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_a_file_that_another_program_locks_is_waited_for_and_then_named(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "LOCKED_LIMIT_S", 1.0)
    file = tmp_path / "run.db"
    other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    other.execute(f"PRAGMA journal_mode={mode}")
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(LedgerError, match=r"run\.db has been locked by another program for 1 s"):
        database.metadata.create_all(database.connect(file))
    timer = threading.Timer(0.3, lambda: other.execute("COMMIT"))
    timer.start()
    database.metadata.create_all(engine := database.connect(file))
    timer.join()
    other.close()
    engine.dispose()


def test_what_sqlite_cannot_open_write_or_hold_is_told_with_its_remedy(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"run\.db cannot be opened") as caught:
        database.connect(tmp_path / "no-folder" / "run.db").connect()
    assert "mend the rights" in caught.value.remedy
    engine = database.connect(tmp_path / "run.db")
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE TABLE filled (bytes)")
        connection.exec_driver_sql("PRAGMA max_page_count=3")
        with pytest.raises(LedgerError, match="no space is left on the disk") as caught:
            connection.exec_driver_sql("INSERT INTO filled VALUES (zeroblob(100000))")
        assert "make room" in caught.value.remedy
        connection.exec_driver_sql("PRAGMA query_only=ON")
        with pytest.raises(LedgerError, match=r"run\.db cannot be opened"):
            connection.exec_driver_sql("INSERT INTO filled VALUES (1)")
    engine.dispose()


def test_a_database_that_was_cut_anywhere_is_read_whole_or_named_as_damaged(
    engine: database.Engine, tmp_path: Path
) -> None:
    sealed_rounds = history(engine, 8)
    engine.dispose()
    whole, named = (tmp_path / "run.db").read_bytes(), 0
    for length in range(700, len(whole), 700):
        file = tmp_path / f"cut-{length}.db"
        file.write_bytes(whole[:length])
        cut = database.connect(file)
        try:
            database.metadata.create_all(cut)
            with cut.connect() as connection:
                assert Books(SESSION).sealed_rounds(connection) == sealed_rounds
        except BooksDamaged as error:
            assert str(error).startswith(f"{file} cannot be read: ") and "from a copy" in error.remedy
            named += 1
        finally:
            cut.dispose()
    assert named > 10
