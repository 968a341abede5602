"""A run that was stopped, or failed, leaves a report of the rounds that were finished; resumed, it completes it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message, RecordDict
from fuzzed_run import Small

from hypergpu_fl.bench.in_process import InProcessGrid
from hypergpu_fl.cli import invoke
from hypergpu_fl.cli.resuming import is_complete
from hypergpu_fl.config import Config, to_run_config
from hypergpu_fl.dashboard.run_view import RunView
from hypergpu_fl.errors import BooksDamaged
from hypergpu_fl.node.client_app import app
from hypergpu_fl.server.server_app import main
from hypergpu_fl.server.unfinished import report_unfinished

NODES, ROUNDS = 3, 4

Look = Callable[[], None]


class WatchedGrid(InProcessGrid):
    """Calls ``look`` whenever the server asks for replies."""

    look: Look

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        self.look()
        return super().pull_messages(message_ids)


class OneWithoutData(Small):
    def data(self, partition: int | None) -> Any:
        return [] if partition == 1 else super().data(partition)


def configured(root: Path, *, resume: bool = False, task: str = "", rounds: int = ROUNDS) -> Config:
    return Config.model_validate(
        {
            "training": {"num_nodes": NODES, "rounds": rounds, "task": task},
            "network": {"cohort": NODES, "quota": 1.0, "mode": "sync"},
            "blockchain": {"enabled": False},
            "system": {"runs_dir": str(root), "run_name": "run", "resume": resume},
        }
    )


def serve(config: Config, look: Look = lambda: None) -> dict[str, Any]:
    """The whole ServerApp, on nodes of this process."""
    folder = Path(config.system.runs_dir) / "run"
    run_config = to_run_config(config)
    grid = WatchedGrid(app, NODES, run_config, state_dir=folder / "nodes")
    grid.look = look
    main(grid, Context(1, 0, {}, RecordDict(), run_config))
    return report_of(folder)


def report_of(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report


def ending(folder: Path, error: BaseException, *, after: int) -> Look:
    """Ends the ServerApp while it waits for replies in the round after round ``after``."""

    def look() -> None:
        if f"round {after:>3}/" in (folder / "run.log").read_text():
            raise error

    return look


@pytest.mark.parametrize(
    ("error", "status", "failure"),
    [(SystemExit(3), "stopped", None), (ZeroDivisionError("by a node"), "failed", "by a node")],
)
def test_a_run_that_ended_early_tells_of_its_finished_rounds_and_goes_on(
    tmp_path: Path, error: BaseException, status: str, failure: str | None
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(type(error)):
        serve(configured(tmp_path), ending(folder, error, after=2))
    report = report_of(folder)
    assert (report["status"], report["failure"], report["rounds"]) == (status, failure, 2)
    assert [entry["round"] for entry in report["history"]] == [1, 2]
    assert report["seconds"] == report["history"][-1]["seconds"] > 0
    with (folder / "nodes.csv").open(newline="") as file:
        assert {row["round"] for row in csv.DictReader(file)} == {"1", "2"}
    assert not is_complete(folder, configured(tmp_path).training)

    whole = serve(configured(tmp_path, resume=True))
    assert (whole["status"], whole["rounds"], whole["nodes"]) == ("completed", ROUNDS, report["nodes"])
    assert whole["history"][:2] == report["history"]
    assert {name: whole[name] for name in ("unit", "untrained_loss")} == {
        name: report[name] for name in ("unit", "untrained_loss")
    }


def test_a_report_tells_how_the_last_stretch_ended_even_if_that_finished_no_round(tmp_path: Path) -> None:
    folder, before = tmp_path / "run", {}
    for error, ended in (
        (SystemExit(3), ("stopped", None)),
        (ZeroDivisionError("by a node"), ("failed", "by a node")),
        (SystemExit(3), ("stopped", None)),
    ):
        with pytest.raises(type(error)):
            serve(configured(tmp_path, resume=bool(before)), ending(folder, error, after=2))
        report = report_of(folder)
        assert (report.pop("status"), report.pop("failure")) == ended
        assert report == (before or report) and report["rounds"] == 2
        before = report


def test_a_completed_run_that_is_resumed_for_more_rounds_tells_how_that_ended(tmp_path: Path) -> None:
    folder, more = tmp_path / "run", configured(tmp_path, resume=True, rounds=ROUNDS + 2)
    whole = serve(configured(tmp_path))
    for error, ended in (
        (ZeroDivisionError("by a node"), ("failed", "by a node")),
        (SystemExit(3), ("stopped", None)),
    ):
        (folder / "report.json").write_text(json.dumps(whole))
        with pytest.raises(type(error)):
            serve(more, ending(folder, error, after=ROUNDS))
        report = report_of(folder)
        assert (report["status"], report["failure"]) == ended
        assert report | {"status": "completed", "failure": None} == whole
    assert serve(more)["history"][:ROUNDS] == whole["history"]


def test_a_stop_by_the_command_alone_is_told_too(tmp_path: Path) -> None:
    whole = serve(configured(tmp_path))
    assert report_unfinished(tmp_path / "run", configured(tmp_path, rounds=ROUNDS + 2).training) == ROUNDS
    assert report_of(tmp_path / "run") == whole | {"status": "stopped"}


def test_a_stopped_run_tells_of_the_node_that_could_not_take_part(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(SystemExit):
        serve(configured(tmp_path, task=f"{__name__}:OneWithoutData"), ending(folder, SystemExit(3), after=2))
    assert [why.partition(";")[0] for why in report_of(folder)["unfit"].values()] == [
        "node-1: data(1) returned nothing"
    ]
    for _ in ("stopped", "killed, which leaves no report"):
        assert invoke(["nodes", str(folder)]) == 0
        assert "could not take part: node-1: data(1) returned nothing" in capsys.readouterr().out
        (folder / "report.json").unlink(missing_ok=True)


def test_a_run_that_was_stopped_before_its_first_round_was_finished_leaves_no_report(tmp_path: Path) -> None:
    def stop() -> None:
        raise SystemExit

    with pytest.raises(SystemExit):
        serve(configured(tmp_path), stop)
    assert not (tmp_path / "run" / "report.json").exists()


def test_a_report_that_tells_of_every_finished_round_stays(tmp_path: Path) -> None:
    report = serve(configured(tmp_path))
    assert report_unfinished(tmp_path / "run", configured(tmp_path).training) == ROUNDS
    assert report_of(tmp_path / "run") == report


@pytest.mark.parametrize(("content", "cause"), [(b"", "has 0 rounds, the checkpoint beside it 2"), (b"none" * 999, "")])
def test_damaged_books_are_not_taken_for_books_in_which_nothing_is_sealed(
    tmp_path: Path, content: bytes, cause: str
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(SystemExit):
        serve(configured(tmp_path), ending(folder, SystemExit(3), after=2))
    (folder / "report.json").unlink()
    for left in folder.glob("run.db*"):
        left.write_bytes(content)
    with pytest.raises(BooksDamaged, match=cause or "not a database") as caught:
        report_unfinished(folder, configured(tmp_path).training)
    assert "from a copy" in caught.value.remedy
    log = (folder / "events.jsonl").read_bytes()
    with pytest.raises(BooksDamaged, match=cause or "not a database"):
        serve(configured(tmp_path, resume=True))
    assert (folder / "events.jsonl").read_bytes() == log and not (folder / "report.json").exists()


def test_whoever_looks_at_a_stopped_run_is_told_that_it_was_stopped(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(SystemExit):
        serve(configured(tmp_path), ending(folder, SystemExit(3), after=1))
    view = RunView(folder)
    view.poll()
    assert view.summary()["state"] == "stopped"
    view.close()
