"""`hypergpu nodes`: when each node was seen, on the run's clock, and who is there before the first round's books."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from seen_runs import NOW_S, SeenRun
from sqlalchemy import delete, update

from hypergpu_fl import cli
from hypergpu_fl.network import registry


@pytest.fixture
def run(tmp_path: Path) -> Iterator[SeenRun]:
    run = SeenRun(tmp_path / "runs" / "demo", ["node-0", "node-1"])
    run.round(loss=0.5, accuracy=0.5)
    with run.engine.begin() as books:
        books.execute(update(registry.nodes).where(registry.nodes.c.name == "node-1").values(last_seen_s=NOW_S - 47))
    yield run
    run.close()


def rows(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    assert cli.invoke(["nodes", "demo", *words, "--format", "json"]) == 0
    return list(json.loads(capsys.readouterr().out))


def test_a_simulated_run_tells_on_its_virtual_clock_how_long_ago_a_node_answered(
    run: SeenRun, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [(row["node"], row["seen_s_ago"]) for row in rows(capsys)] == [("node-0", 0.0), ("node-1", 47.0)]
    assert cli.invoke(["nodes", "demo"]) == 0
    assert "2 nodes of demo, on its virtual clock" in capsys.readouterr().out


def test_a_deployed_run_tells_at_what_moment_a_node_answered(run: SeenRun, capsys: pytest.CaptureFixture[str]) -> None:
    (run.folder / "config.json").write_text(json.dumps({"network": {"enable_simulation": False}}))
    assert rows(capsys)[1]["last_seen"] == "2027-01-15T07:59:13+00:00"


def test_nodes_that_joined_are_shown_before_a_round_is_in_the_books(
    run: SeenRun, capsys: pytest.CaptureFixture[str]
) -> None:
    with run.engine.begin() as books:
        books.execute(delete(registry.nodes))
    run.log.sync()
    assert [(row["node"], row["status"]) for row in rows(capsys)] == [("node-0", "joining"), ("node-1", "joining")]


def test_nodes_of_emptied_books_are_not_told_as_joining(run: SeenRun, capsys: pytest.CaptureFixture[str]) -> None:
    run.finish()
    run.close()
    os.truncate(run.folder / "run.db", 0)
    assert cli.invoke(["nodes", "demo"]) == 1
    said = capsys.readouterr()
    assert "demo is not whole: rounds in events.jsonl 1, run.db 0, report.json 1" in said.err and not said.out
