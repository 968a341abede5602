"""What is shown of a real run is what its report says: the view reads log and database, the report is the server's."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import pytest

from hypergpu_fl.bench.in_process import InProcessGrid
from hypergpu_fl.config import Config, to_run_config
from hypergpu_fl.dashboard.run_view import RunView
from hypergpu_fl.node import client_app
from hypergpu_fl.server import server_app

NODES = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three rounds over links that drop, then two more after resuming."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    folder.mkdir()
    for rounds, resume in ((3, False), (5, True)):
        config = Config.model_validate(
            {
                "training": {"num_nodes": NODES, "rounds": rounds},
                "network": {"cohort": 4, "profile": "flaky"},
                "system": {"run_name": "run", "resume": resume, "device": "cpu"},
            }
        )
        grid = InProcessGrid(client_app.app, NODES, to_run_config(config), state_dir=folder.parent / "nodes")
        server_app.run(config, grid, folder)
    return folder


@pytest.fixture
def view(folder: Path) -> RunView:
    view = RunView(folder)
    view.poll()
    return view


def test_every_round_is_shown_as_the_report_has_it(folder: Path, view: RunView) -> None:
    report = json.loads((folder / "report.json").read_text())
    assert view.summary()["state"] == report["status"] == "completed"
    assert len(view.rounds) == len(report["history"]) == 5
    for shown, told in zip(view.rounds, report["history"], strict=True):
        assert shown["metrics"] == pytest.approx(told["metrics"])
        assert shown["loss"] == pytest.approx(told["loss"])
        assert shown["seconds"] == pytest.approx(told["seconds"])
        for ours, theirs in (
            ("refused", "rejected"),
            *((key, key) for key in ("round", "selected", "arrived", "late")),
        ):
            assert shown[ours] == told[theirs], (shown["round"], ours)
        for key in ("bytes_up", "bytes_down", "root", "tx", "block", "status"):
            assert shown[key] == told[key], (shown["round"], key)


def test_what_each_node_did_is_shown_as_the_table_of_nodes_has_it(folder: Path, view: RunView) -> None:
    with (folder / "nodes.csv").open() as file:
        told = list(csv.DictReader(file))
    assert len({row["verdict"] for row in told}) > 1
    for round in range(1, 6):
        seen = view.round(round)
        assert seen is not None
        of_round = [row for row in told if row["round"] == str(round)]
        assert Counter((work.node, work.verdict) for work in seen.works) == Counter(
            (row["node"], row["verdict"]) for row in of_round
        )
        counted = {row["node"]: row for row in of_round if row["verdict"] in ("counted", "late")}
        for work in seen.works:
            if work.verdict in ("counted", "late"):
                row = counted[work.node]
                assert work.weight == pytest.approx(float(row["weight"]))
                assert (work.bytes_up, work.staleness) == (int(row["bytes_up"]), int(row["staleness"]))
                assert work.compute_s == pytest.approx(float(row["compute_s"]))
        assert sum(work.bytes_down for work in seen.works) == sum(int(row["bytes_down"]) for row in of_round)


def test_pay_adds_up_to_what_the_books_owe(folder: Path, view: RunView) -> None:
    books = json.loads((folder / "ledger.json").read_text())
    assert int(view.summary()["earned_wei"]) == int(books["rounds"][-1]["owed"])
    assert sum(int(node["wei"]) for node in view.nodes()) == int(books["rounds"][-1]["owed"])
    assert sum(view.pay_upto(3).values()) == int(books["rounds"][2]["owed"])
