"""What each node did in each round, and runs of which nothing counts: the real ClientApp, inside this process."""

from __future__ import annotations

import csv
import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from hypergpu_fl.bench.in_process import InProcessGrid
from hypergpu_fl.cli import invoke
from hypergpu_fl.config import Config, to_run_config, unflatten
from hypergpu_fl.errors import RunFailed, TaskError
from hypergpu_fl.node.client_app import app
from hypergpu_fl.server.server_app import run
from strategies.errors import NoNodes

NODES = 6


def frozen(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A model of which nothing is trained."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes)).requires_grad_(False)


def batch_normalised(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A model that cannot train on a batch of one."""
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(math.prod(shape)), nn.Linear(math.prod(shape), classes))


def train(folder: Path, **settings: Any) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    given = {
        "training.num_nodes": NODES,
        "training.rounds": 6,
        "network.cohort": 3,
        "network.quota": 0.5,
        "blockchain.enabled": False,
        "system.runs_dir": str(folder.parent),
        "system.run_name": folder.name,
    }
    given |= {key.replace("__", "."): value for key, value in settings.items()}
    config = Config.model_validate(unflatten(given))
    run(config, InProcessGrid(app, NODES, to_run_config(config), state_dir=folder / "nodes"), folder)
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "nodes.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_order_and_reply_of_a_run_is_told_once_and_adds_up_to_its_rounds(tmp_path: Path) -> None:
    report = train(tmp_path / "run")
    waiting: dict[str, int] = defaultdict(int)
    verdicts = set()
    for entry in report["history"]:
        rows = entry["nodes"]
        verdicts |= {row["verdict"] for row in rows}
        count = {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in verdicts | {"late", "refused"}}
        assert count.get("counted", 0) + count["late"] == entry["arrived"]
        assert (count["late"], count["refused"]) == (entry["late"], entry["rejected"])
        assert sum(row["bytes_down"] for row in rows) == entry["bytes_down"]
        assert sum(row["bytes_up"] for row in rows) == entry["bytes_up"]
        assert sum(row["weight"] or 0 for row in rows) == pytest.approx(1.0 if entry["arrived"] else 0.0)
        for row in rows:
            assert row["node"].startswith("node-") and row["steps"] >= 1 and row["codec"]
            waiting[row["node"]] += {"working": 1, "late": -1}.get(row["verdict"], 0)
            if row["verdict"] in ("counted", "late"):
                assert row["train_loss"] > 0 and row["samples"] >= row["steps"]
                parts = row["download_s"] + row["compute_s"] + row["upload_s"]
                assert 0 < parts <= row["total_s"] and row["staleness"] >= 0
    assert set(waiting.values()) <= {0, 1} and {"counted", "late", "working"} <= verdicts
    steps = sorted(row["steps"] for entry in report["history"] for row in entry["nodes"])
    assert report["local_work"]["steps"] == {"fewest": steps[0], "median": steps[len(steps) // 2], "most": steps[-1]}
    assert report["status"] == "completed" and report["failure"] is None


def test_the_table_for_pandas_says_what_the_report_says(tmp_path: Path) -> None:
    report = train(tmp_path / "run", training__rounds=2)
    rows = [{"round": entry["round"], **row} for entry in report["history"] for row in entry["nodes"]]
    found = table(tmp_path / "run")
    assert len(found) == len(rows)
    for line, row in zip(found, rows, strict=True):
        assert row.pop("metrics") == {}
        assert line == {key: "" if value is None else str(value) for key, value in row.items()}


def test_the_nodes_command_shows_names_steps_and_losses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = train(tmp_path / "run", training__rounds=2)
    capsys.readouterr()
    assert invoke(["nodes", "run", "--runs", str(tmp_path), "--format", "json"]) == 0
    shown = {row["node"]: row for row in json.loads(capsys.readouterr().out)}
    assert shown.keys() == {f"node-{i}" for i in range(NODES)}
    for row in report["history"][-1]["nodes"]:
        assert shown[row["node"]]["steps"] == row["steps"]
        assert row["train_loss"] is None or shown[row["node"]]["train_loss"] == row["train_loss"]
    assert all("packet_loss" in row and "loss" not in row for row in shown.values())


def test_a_resumed_run_keeps_its_rows_and_forgets_those_of_rounds_that_were_not_booked(tmp_path: Path) -> None:
    before = train(tmp_path / "run", training__rounds=2)
    after = train(tmp_path / "run", training__rounds=4, system__resume=True)
    assert [entry["nodes"] for entry in after["history"][:2]] == [entry["nodes"] for entry in before["history"]]
    assert [int(line["round"]) for line in table(tmp_path / "run")] == [
        entry["round"] for entry in after["history"] for _ in entry["nodes"]
    ]
    assert all(entry["nodes"] for entry in after["history"])


@pytest.mark.parametrize(
    ("settings", "cause", "remedy"),
    [
        (
            {"training__learning_rate": 1e6},
            "the server refused 6 of 9 replies as error reply: NotFinite: values to encode hold NaN",
            "lower training.learning_rate",
        ),
        # of the same kind
        ({"network__deadline_s": 1e-6, "network__mode": "sync"}, "orders was answered in time", "network.deadline_s"),
        (
            {"blockchain__enabled": True, "blockchain__allow_list": "0x" + "ab" * 20},
            "is not in blockchain.allow_list",
            "add the nodes' addresses to blockchain.allow_list",
        ),
    ],
)
def test_a_run_of_which_nothing_counts_fails_with_the_commonest_reason(
    tmp_path: Path, settings: dict[str, Any], cause: str, remedy: str
) -> None:
    with pytest.raises(RunFailed, match="^nothing was trained: ") as caught:
        train(tmp_path / "run", **settings, training__rounds=3)
    assert cause in caught.value.cause and "\n" not in caught.value.cause and remedy in caught.value.remedy
    report = json.loads((tmp_path / "run" / "report.json").read_text(), parse_constant=pytest.fail)  # no NaN
    assert (report["status"], report["failure"]) == ("failed", caught.value.cause)
    assert not any(row["verdict"] == "counted" for entry in report["history"] for row in entry["nodes"])


@pytest.mark.parametrize(
    ("model", "cause"),
    [("frozen", "no trainable parameter"), ("batch_normalised", "none can take part; 1 of them: ValueError: Expected")],
)
def test_a_model_that_no_node_can_train_is_refused_before_the_first_round(
    tmp_path: Path, model: str, cause: str
) -> None:
    with pytest.raises((TaskError, NoNodes), match=cause):
        train(tmp_path / "run", training__model_architecture=f"{__name__}:{model}", training__batch_size=1)
    assert not (tmp_path / "run" / "report.json").exists()


def test_passes_over_its_own_data_are_what_every_node_makes(tmp_path: Path) -> None:
    report = train(tmp_path / "run", training__epochs=2, training__batch_size=8, training__rounds=2)
    counted = [row for entry in report["history"] for row in entry["nodes"] if row["verdict"] == "counted"]
    assert len({row["steps"] for row in counted}) > 1  # shares differ in size
    assert all(row["samples"] == 8 * row["steps"] for row in counted)
    assert report["local_work"]["decided_by"] == "as asked: training.epochs = 2 over its own data"


def test_a_simulated_node_computes_in_proportion_to_its_models_flops(tmp_path: Path) -> None:
    def per_sample(name: str, **settings: Any) -> tuple[dict[str, float], dict[str, Any]]:
        report = train(tmp_path / name, training__rounds=1, network__quota=1.0, **settings)
        (entry,) = report["history"]
        answered = [row for row in entry["nodes"] if row["compute_s"]]
        return {row["node"]: row["compute_s"] / row["samples"] for row in answered}, report["simulated_compute"]

    small, said = per_sample("small")
    large, said_too = per_sample("large", training__model_architecture="simple_cnn")
    assert (said["by"], said_too["by"]) == ("flops", "flops")
    both = small.keys() & large.keys()
    assert both
    for node in both:
        assert large[node] / small[node] == pytest.approx(said_too["flops_per_sample"] / said["flops_per_sample"])
    _, fixed = per_sample("fixed", network__sample_ms=4)
    assert (fixed["by"], fixed["flops_per_sample"]) == ("network.sample_ms", None)
