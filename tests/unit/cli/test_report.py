"""``hypergpu report`` and ``compare``: one HTML file that stands alone, and figures side by side."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from seen_runs import SeenRun

from hypergpu_fl import cli
from hypergpu_fl.dashboard.line_chart import line_chart

NAMES = ["node-0", "<script>alert(1)</script>", "\u202eelddim", "n" * 10_000]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    for name, nodes in (("demo", NAMES), ("other", ["node-0"])):
        run = SeenRun(tmp_path / "runs" / name, nodes, failing=3 if name == "demo" else None)
        for round in range(1, 6):
            run.round(loss=1 / round, accuracy=1 - 0.5 / round)
        run.finish(failure="the disk was full" if name == "other" else None)
        run.close()
    yield tmp_path


class Tags(HTMLParser):
    """What a document is made of, and the texts in it."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.tags, self.attributes, self.texts = list[str](), list[tuple[str, str | None]](), list[str]()
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_report_stands_alone_and_shows_curves_nodes_pay_settings_and_versions(runs: Path) -> None:
    assert cli.invoke(["report", "demo", "--out", "demo.html"]) == 0
    document = Tags((runs / "demo.html").read_text())
    assert not {"script", "link", "img", "iframe"} & set(document.tags)
    assert not {"src", "href", "style", "onload"} & {name for name, _ in document.attributes}
    charts = [value for name, value in document.attributes if name == "aria-label"]
    assert charts == [
        *("accuracy over rounds", "loss over rounds"),
        *("bytes up a round", "length of a round", "updates a round"),
    ]
    assert document.tags.count("polyline") == 8
    text = document.texts
    assert NAMES[1] in text and NAMES[2] in text and "n" * 300 + "…" in text
    assert {"training.rounds", "version of python", "3.11.7", "digits mlp", "excluded"} <= set(text)
    assert any(cell.endswith(" MON") for cell in text)


def test_every_row_of_a_table_has_a_cell_under_each_heading(runs: Path) -> None:
    assert cli.invoke(["compare", "demo", "other", "--out", "both.html"]) == 0
    tables = Path("both.html").read_text().split("<table>")[1:]
    assert len(tables) == 4  # figures, the nodes of either run, settings
    for table in tables:
        head, *rows = table.split("</table>")[0].split("<tr>")[1:]
        assert {row.count("<th") + row.count("<td") for row in rows} == {head.count("<th ")}, head


def test_a_report_without_a_name_is_written_beside_one(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.invoke(["report", "--format", "json"]) == 2, "there is no latest run"
    assert cli.invoke(["report", "demo", "--format", "json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["written"] == str(Path.cwd() / "demo-report.html"), "it says in which folder"
    assert said["rounds"] == 5 and Path("demo-report.html").is_file()


def test_runs_are_compared_side_by_side(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.invoke(["compare", "demo", "other", "--out", "both.html"]) == 0
    shown = capsys.readouterr().out
    loss = next(line.split() for line in shown.splitlines() if line.split()[:1] == ["loss"])
    assert loss == ["loss", "0.2", "0.2"]
    document = Tags((runs / "both.html").read_text())
    assert "the disk was full" in "".join(document.texts)
    assert ("aria-label", "loss over time") in document.attributes
    assert document.tags.count("polyline") == 12


def test_a_comparison_names_the_settings_that_differ_and_no_others(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.invoke(["compare", "demo", "other"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["training.num_nodes", "4", "1"] in rows
    assert not any(row[:1] == ["training.rounds"] for row in rows)


@pytest.mark.parametrize("words", [["demo"], ["demo", "demo"], [f"run-{number}" for number in range(7)]])
def test_what_cannot_be_compared_is_bad_usage(runs: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.invoke(["compare", *words]) == 2
    assert "name 2 to 6 different ones" in capsys.readouterr().err


def test_a_run_of_which_nothing_is_there_yet_is_reported_as_such(runs: Path) -> None:
    (runs / "runs" / "fresh").mkdir()
    assert cli.invoke(["report", "fresh"]) == 0
    assert "No round has ended." in Path("fresh-report.html").read_text()


def test_a_chart_holds_every_point_within_its_frame() -> None:
    points = [(float(x), (-1.0) ** x * x * 1e6 if x % 7 else None) for x in range(5000)]
    chart = line_chart("wild", [("a", points), ("b", [(3.0, 0.0)])], x_words=str, y_words=str)
    places = [pair.split(",") for pair in chart.split('points="')[1].split('"')[0].split()]
    assert 1000 <= len(places) <= 2000
    assert all(64 <= float(x) <= 550 and 10 <= float(y) <= 184 for x, y in places)
    assert line_chart("none", [("a", [(1.0, None)])], x_words=str, y_words=str) == ""
    assert "polyline" in line_chart("one", [("a", [(1.0, 0.0)])], x_words=str, y_words=str)


def test_runs_are_named_by_their_folders_too_and_told_apart_by_what_was_typed(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    away = runs / "elsewhere" / "demo"
    shutil.copytree(runs / "runs" / "demo", away)
    assert cli.invoke(["compare", "demo", "elsewhere/demo", "--out", "both.html"]) == 0
    assert ["demo", "elsewhere/demo"] in [line.split() for line in capsys.readouterr().out.splitlines()]
    assert "elsewhere/demo" in Tags(Path("both.html").read_text()).texts
    for command in (["report"], ["nodes"], ["replay"], ["ledger", "show"], ["ledger", "list"], ["watch", "--once"]):
        found = cli.invoke([*command, "elsewhere/demo"])
        assert found == (command == ["replay"]), capsys.readouterr().err  # its rules are of no release
        assert cli.invoke([*command, "./nowhere"]) == 2
        assert "./nowhere is no folder" in capsys.readouterr().err
        assert cli.invoke([*command, str(runs)]) == 2
        assert f"{runs} holds no run" in capsys.readouterr().err
    assert cli.invoke(["compare", "demo", "runs/demo"]) == 2
    assert "the same run was named twice" in capsys.readouterr().err


def test_where_no_chain_pays_no_coin_is_shown(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.invoke(["report", "demo"]) == 0
    assert "MON" in capsys.readouterr().out
    with sqlite3.connect(runs / "runs" / "demo" / "run.db") as connection:
        connection.execute("UPDATE sessions SET chain_id = 0")
    assert cli.invoke(["report", "demo"]) == 0
    assert cli.invoke(["watch", "demo", "--once"]) == 0
    shown = capsys.readouterr().out + Path("demo-report.html").read_text()
    assert "MON" not in shown and "earned by nodes" not in shown and "refused" in shown


@pytest.mark.parametrize(
    "spoil", [lambda file: os.truncate(file, 40_000), lambda file: file.write_bytes(b"none" * 999)]
)
@pytest.mark.parametrize(
    "command", ["nodes", "rewards", "replay", "ledger list", "ledger show", "ledger export", "report", "watch --once"]
)
def test_a_database_that_cannot_be_read_is_told_by_its_cause_and_remedy(
    command: str, spoil: Callable[[Path], object], runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(runs / "runs" / "demo" / "run.db")
    assert cli.invoke([*command.split(), "demo"]) == 1
    cause, remedy = capsys.readouterr().err.splitlines()
    assert cause.startswith("error: ") and "cannot be" in cause and "unexpected" not in cause
    assert remedy.startswith("remedy: bring ") and "back from a copy" in remedy


@pytest.mark.parametrize(
    ("name", "spoil", "told"),
    [
        ("events.jsonl", lambda file: os.truncate(file, file.stat().st_size // 2), (1, 5, 5)),
        ("events.jsonl", Path.unlink, (0, 5, 5)),
        ("run.db", lambda file: os.truncate(file, 0), (5, 0, 5)),
        ("run.db", Path.unlink, (5, 0, 5)),
    ],
)
def test_no_report_is_made_of_a_run_whose_files_contradict_one_another(
    name: str,
    spoil: Callable[[Path], object],
    told: tuple[int, int, int],
    runs: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil(runs / "runs" / "demo" / name)
    for command in (["report", "demo"], ["compare", "demo", "other", "--out", "demo-report.html"]):
        assert cli.invoke(command) == 1
        said = capsys.readouterr()
        figures = "events.jsonl {}, run.db {}, report.json {}".format(*told)
        assert f"demo is not whole: rounds in {figures}" in said.err and not said.out
        assert "from a copy" in said.err
    assert not Path("demo-report.html").exists()
