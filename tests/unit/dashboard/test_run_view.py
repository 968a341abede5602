"""A run is read as it grows: log and books become what is shown, and nothing is shown twice."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from seen_runs import NOW_S, SeenRun
from sqlalchemy import delete

from hypergpu_fl.dashboard.run_view import SILENT_S, RunView
from hypergpu_fl.dashboard.sealed import sealed_round
from hypergpu_fl.dashboard.segments import Segments
from hypergpu_fl.errors import BooksDamaged, LedgerError
from hypergpu_fl.files import exclusive
from hypergpu_fl.ledger import database
from hypergpu_fl.runs import BOOKS_LOCK
from strategies.errors import Reason


def view_of(run: SeenRun) -> RunView:
    view = RunView(run.folder, clock=lambda: NOW_S)
    view.poll()
    return view


def test_closed_rounds_are_rows_with_loss_metrics_and_root(going_on: SeenRun) -> None:
    rows = view_of(going_on).rounds
    assert [row["round"] for row in rows] == [1, 2, 3]
    assert rows[2]["loss"] == pytest.approx(1 / 3)
    assert rows[2]["metrics"] == {"accuracy": pytest.approx(1 - 0.5 / 3)}
    assert (rows[2]["selected"], rows[2]["arrived"], rows[2]["refused"]) == (5, 4, 1)
    assert rows[2]["root"].startswith("0x") and len(rows[2]["root"]) == 66
    assert rows[2]["seconds"] == pytest.approx(3.0) and rows[2]["took_s"] == pytest.approx(1.0)


def test_a_new_round_is_added_and_the_others_stay(going_on: SeenRun) -> None:
    view = view_of(going_on)
    before = list(view.rounds)
    assert not view.poll(), "nothing was added"
    going_on.begin()
    assert view.poll()
    assert view.summary()["open"] == {"round": 4, "started_s": 3.0, "deadline_s": 9.0, "sent": 5, "answered": 0}
    assert {node["phase"] for node in view.nodes()} == {"downloading"}
    going_on.end(loss=0.2, accuracy=0.9)
    assert view.poll()
    assert view.rounds[:3] == before and view.rounds[3]["metrics"] == {"accuracy": 0.9}
    assert view.summary()["open"] is None


def test_reading_bit_by_bit_gives_what_reading_at_once_gives(going_on: SeenRun, tmp_path: Path) -> None:
    whole = (going_on.folder / "events.jsonl").read_bytes()
    shutil.copytree(going_on.folder, tmp_path / "copy")
    log = tmp_path / "copy" / "events.jsonl"
    log.write_bytes(b"")
    view = RunView(tmp_path / "copy", clock=lambda: NOW_S)
    for end in range(0, len(whole), 97):
        log.write_bytes(whole[:end])
        view.poll()
    log.write_bytes(whole)
    view.poll()
    at_once = view_of(going_on)
    assert view.epoch == 0
    assert view.rounds == at_once.rounds
    assert view.nodes() == at_once.nodes()


def test_a_past_round_is_shown_as_it_was(going_on: SeenRun) -> None:
    view, earned = view_of(going_on), going_on.earned()
    before = view.round(2)
    going_on.round(loss=0.1, accuracy=0.95)
    view.poll()
    assert view.round(2) == before
    assert before is not None and before.loss == pytest.approx(0.5)
    assert [work.verdict for work in before.works].count("refused") == 1
    assert sum(work.weight or 0 for work in before.works) == pytest.approx(1)
    assert view.pay_upto(3) == earned
    assert sum(view.pay_upto(2).values()) < sum(earned.values())
    assert view.round(9) is None and view.round(0) is None


def test_nodes_have_their_pay_their_health_in_words_and_come_in_the_order_of_numbers(going_on: SeenRun) -> None:
    nodes = view_of(going_on).nodes()
    names = [node["name"] for node in nodes]
    assert names.index("node-9") < names.index("node-10")
    assert {node["name"]: int(node["wei"]) for node in nodes if int(node["wei"])} == going_on.earned()
    bad = next(node for node in nodes if node["name"] == "node-9")
    assert bad["state"] == "excluded" and "shut out for 60 s more" in bad["reason"]
    assert {node["state"] for node in nodes if node is not bad} == {"sound"}
    assert bad["phase"] == "waiting" and bad["verdict"] == "refused"


def test_a_log_that_was_cut_back_is_read_anew(going_on: SeenRun) -> None:
    view = view_of(going_on)
    log = going_on.folder / "events.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole[: view._log.starts[2]])
    assert view.poll() and view.epoch == 1
    view.poll()
    assert len(view.rounds) == 2


def test_a_node_that_left_is_not_counted_among_the_refused(tmp_path: Path) -> None:
    run = SeenRun(tmp_path / "run", ["node-0", "node-1", "node-2"], failing=1, reason=Reason.LEFT)
    run.round(loss=1.0, accuracy=0.5)
    view = view_of(run)
    assert view.rounds[0]["refused"] == view.summary()["refused"] == 0
    assert view.nodes()[1]["verdict"] == "left"
    assert view.happenings()[0].kind == "left"
    run.close()


def test_what_happened_is_told_newest_first(going_on: SeenRun) -> None:
    happenings = view_of(going_on).happenings()
    assert [h.kind for h in happenings] == ["excluded", "refused", "refused", "refused", *["joined"] * 5]
    assert [h.round for h in happenings[:4]] == [3, 3, 2, 1]
    assert happenings[1].node == "node-9" and "onerror" in happenings[1].text


@pytest.mark.parametrize("failure", [None, 'nothing counted: "quoted"'])
def test_a_run_that_has_ended_says_how(going_on: SeenRun, failure: str | None) -> None:
    going_on.finish(failure=failure)
    summary = view_of(going_on).summary()
    assert summary["state"] == ("failed" if failure else "completed") and summary["failure"] == failure


def test_a_run_without_a_line_for_long_is_not_called_running(going_on: SeenRun) -> None:
    now_s = time.time()
    for passed_s, state in ((0.0, "running"), (SILENT_S + 60, "silent")):
        view = RunView(going_on.folder, clock=partial(float, now_s + passed_s))
        view.poll()
        assert view.summary()["state"] == state


def test_a_run_whose_books_nobody_writes_any_more_is_said_to_be_broken_off(going_on: SeenRun) -> None:
    lock = going_on.folder / BOOKS_LOCK
    view = RunView(going_on.folder, clock=partial(float, time.time() + 60))
    with exclusive(lock, AssertionError("free")):
        assert view.summary()["state"] == "running"
    assert view.summary()["state"] == "broken off"
    with exclusive(lock, AssertionError("whoever looks does not keep it")):
        assert view.summary()["state"] == "running"


def test_a_run_that_ended_is_not_broken_off_because_its_files_were_copied_in_another_order(going_on: SeenRun) -> None:
    (going_on.folder / BOOKS_LOCK).touch()
    report = going_on.folder / "report.json"
    for rounds, state in ((3, "completed"), (2, "broken off")):  # the latter's report is of an earlier stretch
        report.write_text(json.dumps({"status": "completed", "failure": None, "rounds": rounds}, indent=1))
        os.utime(report, (0, 0))
        view = RunView(going_on.folder, clock=partial(float, time.time() + 60))
        view.poll()
        assert view.summary()["state"] == state


def test_a_simulated_node_was_seen_by_the_runs_clock_and_not_by_that_on_the_wall(going_on: SeenRun) -> None:
    view = RunView(going_on.folder, clock=partial(float, time.time() + 3600))
    view.poll()
    assert {node["seen_ago_s"] for node in view.nodes()} == {0.0}


def test_a_folder_without_a_log_is_a_run_that_waits(tmp_path: Path) -> None:
    view = RunView(tmp_path)
    assert not view.poll()
    assert view.summary()["state"] == "waiting" and view.nodes() == [] and view.happenings() == []


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def lie_about_pay(file: Path) -> None:
    with contextlib.closing(sqlite3.connect(file)) as books, books:
        books.execute("UPDATE rewards SET reward = 'much'")


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("run.db", lambda file: file.write_bytes(b"no database" * 1000)),
        ("run.db", cut),
        ("run.db", lie_about_pay),
        ("events.jsonl", lambda file: file.write_bytes(b"no event\n")),
        ("events.jsonl", lambda file: (file.unlink(), file.mkdir())),
        ("events.jsonl", lambda file: file.write_bytes(file.read_bytes().replace(b'"order":', b'"other":'))),
    ],
)
def test_a_run_whose_files_hold_what_no_run_writes_is_refused_each_time(
    going_on: SeenRun, name: str, spoil: Callable[[Path], object]
) -> None:
    going_on.close()
    spoil(going_on.folder / name)
    view = RunView(going_on.folder)
    for _ in range(2):
        with pytest.raises(LedgerError, match="demo cannot be shown: ") as caught:
            view.poll()
    assert "back from a copy" in caught.value.remedy and view.rounds == []


def test_however_a_log_was_cut_a_run_is_shown_with_all_its_booked_rounds_or_not_at_all(going_on: SeenRun) -> None:
    going_on.close()
    log = going_on.folder / "events.jsonl"
    whole, shown = log.read_bytes(), 0
    for length in range(0, len(whole) + 1, 97):
        log.write_bytes(whole[:length])
        view = RunView(going_on.folder)
        try:
            view.poll(whole=True)
        except BooksDamaged:
            assert whole[:length].rpartition(b"\n")[0].count(b'"kind":"close"') < 3
        else:
            assert len(view.rounds) == 3
            shown += 1
        view.close()
    assert 0 < shown < len(whole) // 97


def test_a_sealed_round_of_a_damaged_database_is_refused_by_name(going_on: SeenRun) -> None:
    assert sealed_round(going_on.folder, 2)["round"] == 2
    going_on.close()
    (going_on.folder / "run.db").write_bytes(b"no database" * 1000)
    with pytest.raises(BooksDamaged, match=r"run\.db cannot be read: file is not a database"):
        sealed_round(going_on.folder, 2)


def test_a_round_that_is_logged_and_not_booked_yet_is_shown(going_on: SeenRun) -> None:
    with going_on.engine.connect() as books, books.begin():
        for table in (database.contributions, database.refusals, database.rewards):
            round = table.c.sealed_round if table is database.contributions else table.c.round
            books.execute(delete(table).where(round == 3))
        books.execute(delete(database.rounds).where(database.rounds.c.round == 3))
    view = view_of(going_on)
    assert len(view.rounds) == 3
    going_on.finish()
    with pytest.raises(BooksDamaged, match=r"events.jsonl 3, run.db 2, report.json 3"):
        view.poll()


@pytest.mark.parametrize("text", ["5", "[]", '{"training": 5}', '{"training": [1]}', '{"training": null}'])
def test_settings_and_versions_of_another_form_are_none(going_on: SeenRun, text: str) -> None:
    (going_on.folder / "config.json").write_text(text)
    (going_on.folder / "report.json").write_text('{\n "versions": [1]}')
    view = view_of(going_on)
    assert view.summary()["rounds"] == 3 and view.versions() == {}


def test_a_node_cannot_begin_a_round_by_what_it_says(tmp_path: Path) -> None:
    run = SeenRun(tmp_path / "run", ['","kind":"round due"}', "node-1"])
    run.round(loss=1.0, accuracy=0.1)
    run.close()
    log = Segments(run.folder / "events.jsonl")
    log.grow()
    assert len(log.starts) == 1 and log.names == run.names


def test_who_watches_loads_neither_torch_nor_flower() -> None:
    code = (
        "import sys; import hypergpu_fl.dashboard.run_view, hypergpu_fl.dashboard.screen; "
        "print([m for m in ('torch', 'flwr', 'web3', 'sqlalchemy') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
