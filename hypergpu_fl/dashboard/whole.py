"""Whether a run's files tell of the same rounds."""

from __future__ import annotations

from pathlib import Path

from hypergpu_fl.errors import BooksDamaged


def check_whole(folder: Path, logged: int, sealed: int | None, reported: int, *, books: bool) -> None:
    """Refuse a run whose log or books tell of fewer rounds than what is written after them.

    Parameters
    ----------
    logged, sealed, reported : int
        Rounds in event log, database (None if it could not be read yet) and report.
    books : bool
        Whether the log is compared with the books, too, and not with the report alone.

    Raises
    ------
    BooksDamaged
        With these numbers.
    """
    booked = reported if sealed is None else sealed
    if min(logged, booked) < reported or (books and logged < booked):
        told = {"events.jsonl": logged, "run.db": sealed, "report.json": reported}
        raise BooksDamaged(
            f"{folder} is not whole: rounds in "
            + ", ".join(f"{name} {n}" for name, n in told.items() if n is not None),
            "bring the file with fewer back from a copy; `hypergpu replay` and `ledger verify` check what is there",
        )
