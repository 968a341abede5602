"""The report of a run that was stopped or failed, made from what its folder holds of the rounds that had ended."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from loguru import logger
from sqlalchemy.exc import SQLAlchemyError

from hypergpu_fl.config import Training, from_run_config
from hypergpu_fl.errors import HyperGPUError, NoBooks, first_line
from hypergpu_fl.files import write_whole
from hypergpu_fl.ledger import database
from hypergpu_fl.server.checkpoint import state_of
from hypergpu_fl.server.node_rounds import as_csv
from hypergpu_fl.server.report import Report, write_json
from hypergpu_fl.server.resumption import FOLDER, check_books
from hypergpu_fl.server.round_tables import RoundTables
from hypergpu_fl.settlement import load_books
from strategies.weighting import Accounts


def report_ended_by(error: BaseException, folder: Path, asked: Training) -> None:
    """`report_unfinished` for what ended a run: Flower stops a ServerApp by ``SystemExit``, which is no failure."""
    try:
        report_unfinished(folder, asked, failure=first_line(error) if isinstance(error, Exception) else None)
    except (HyperGPUError, SQLAlchemyError, OSError) as another:  # such as a full disk, which then ended the run, too
        logger.warning("no report tells of the rounds that were finished: {}", another)


def report_unfinished(folder: Path, asked: Training, *, failure: str | None = None) -> int:
    """Write ``report.json`` and ``nodes.csv`` of a run whose server has ended early; returns how many rounds they tell.

    The status is "stopped", or "failed" with a ``failure``. A round that was not sealed is left out: a resumed run
    trains it again. Nothing is written before the first round. A report that tells of every round already gets the
    status alone, unless it is of a run that completed all that was ``asked``.

    Raises
    ------
    LedgerError
        If the books cannot be read, or lack rounds.
    """
    ended: dict[str, Any] = {"status": "failed" if failure else "stopped", "failure": failure}
    state, sealed = state_of(folder / FOLDER), {}
    with contextlib.suppress(NoBooks):
        sealed = {record.round: record.root for record in load_books(folder).rounds}
    check_books(folder, len(sealed))
    history = [entry for entry in state["history"] if entry["round"] in sealed] if state else []
    report = _report(folder)
    if state is None or len(history) <= report.get("rounds", 0):
        if report and not _has_all(report, asked) and report | ended != report:
            write_json(folder / "report.json", report | ended)
        return len(history)
    config = from_run_config(state["settings"], os.environ)
    clock = "virtual" if config.network.enable_simulation else "wall"
    collected = Report(config, clock, state["unit"], history, state["stretches"])
    for round, root in sealed.items():
        collected.sealed(round, root="0x" + root.hex())
    engine = database.connect(folder / "run.db")
    try:
        rows = RoundTables(engine, last_round=len(history)).rows()
    finally:
        engine.dispose()
    core, accounts = state["strategy"]["round"], Accounts()
    accounts.restore(core["accounts"])
    document = collected.document(
        nodes=len(core["fleet"]["names"]),
        chain={},
        max_abs_drift=accounts.drift(),
        unfit=state.get("unfit", {}),  # which checkpoints of earlier versions lack
        rows=rows,
        **ended,
        untrained_loss=core["held_out"]["chance"],
    )
    write_whole(folder / "nodes.csv", as_csv(rows))
    write_json(folder / "report.json", document)
    return len(history)


def _has_all(report: dict[str, Any], asked: Training) -> bool:
    figures = {**(report.get("metrics") or {}), "loss": report.get("loss")}
    return report.get("status") == "completed" and asked.is_done(report["rounds"], figures)


def _report(folder: Path) -> dict[str, Any]:
    """The report that is there; empty if none is, or one that no run of ours wrote."""
    try:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        return {**report, "rounds": int(report["rounds"])}
    except (OSError, ValueError, LookupError, TypeError):
        return {}
