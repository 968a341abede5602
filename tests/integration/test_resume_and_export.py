"""A run that is gone on with under its own settings only, and its model in plain PyTorch."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tied_model import Tied, tied

from hypergpu_fl.bench.in_process import InProcessGrid
from hypergpu_fl.cli import invoke
from hypergpu_fl.cli.render import Format
from hypergpu_fl.cli.resuming import is_complete, keep
from hypergpu_fl.cli.run import show_result
from hypergpu_fl.config import Config, Training, to_run_config
from hypergpu_fl.errors import ConfigError
from hypergpu_fl.node.client_app import app
from hypergpu_fl.server.server_app import run
from hypergpu_fl.task import load_task

NODES = 4
Capture = pytest.CaptureFixture[str]


def configured(root: Path, name: str, **training: Any) -> Config:
    return Config.model_validate(
        {
            "training": {
                "model_architecture": "tied_model:tied",
                "num_nodes": NODES,
                "rounds": 3,
                "learning_rate": 0.05,
                "momentum": 0.9,
                **training,
            },
            "network": {"cohort": NODES, "quota": 1.0, "mode": "sync"},
            "blockchain": {"enabled": False},
            "system": {"runs_dir": str(root), "run_name": name},
        }
    )


def train(config: Config) -> dict[str, Any]:
    folder = Path(config.system.runs_dir) / config.system.run_name
    folder.mkdir(exist_ok=True, parents=True)
    run(config, InProcessGrid(app, NODES, to_run_config(config), state_dir=folder / "nodes"), folder)
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    train(configured(root, "own"))
    return root


def test_a_complete_run_that_is_resumed_shows_its_table_and_starts_nothing(
    root: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(root, "own")
    keep(root / "own", config)
    monkeypatch.setenv("PATH", "")  # Flower's commands cannot be found, so none is started
    before = everything_in(root / "own")
    for more, said in (
        ([], "run own is complete"),
        (["--set", "training.target=loss <= 1e9", "--set", "training.rounds=9"], "run own is complete"),
    ):
        assert invoke(["run", "--resume", "own", "--runs", str(root), *more]) == 0
        out, _ = capfd.readouterr()
        assert said in out and re.search(r"rounds +3\n?", out) and re.search(r"counted, late, refused +12, 0, 0", out)
    assert everything_in(root / "own").items() - before.items() <= {(root / "own" / ".lock", b"")}


@pytest.mark.parametrize("report", [None, "", "[]", "{}", '{"status": "completed"}', '{"status": "failed"}'])
def test_a_run_whose_report_does_not_say_that_it_completed_goes_on(tmp_path: Path, report: str | None) -> None:
    if report is not None:
        (tmp_path / "report.json").write_text(report)
    assert not is_complete(tmp_path, Training(rounds=1))


def everything_in(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_server_refuses_a_resumed_run_other_settings_before_it_writes(root: Path) -> None:
    before = everything_in(root / "own")
    with pytest.raises(ConfigError, match=r"learning_rate was 0\.05 and is now 0\.005"):
        train(configured(root, "own", learning_rate=0.005, rounds=9))
    assert everything_in(root / "own") == before


def test_the_report_keeps_the_settings_of_each_stretch(tmp_path: Path) -> None:
    train(configured(tmp_path, "longer", rounds=2))
    first, second = train(configured(tmp_path, "longer", rounds=4))["stretches"]
    assert (first["from_round"], first["to_round"], first["settings"]["training.rounds"]) == (1, 2, 2)
    assert first["settings"]["training.learning_rate"] == 0.05
    assert second == {"from_round": 3, "to_round": 4, "settings": {"training.rounds": 4}}


def test_a_run_keeps_no_more_than_two_checkpoints_and_the_best_average(root: Path) -> None:
    config = configured(root, "own")
    task = load_task(config.training, config.system)
    model_bytes = sum(array.nbytes for array in task.arrays(task.model()).values())
    files = list((root / "own" / "checkpoints").glob("*.safetensors"))
    assert sum(file.stat().st_size for file in files) < 7 * model_bytes + len(files) * 1024


@pytest.mark.parametrize(
    ("format", "read"), [("safetensors", load_file), ("pt", lambda file: torch.load(file, weights_only=True))]
)
@pytest.mark.parametrize("best", [False, True])
def test_an_exported_model_loads_in_plain_pytorch_with_the_reported_loss(
    root: Path, tmp_path: Path, capfd: Capture, format: str, read: Callable[[Path], Any], best: bool
) -> None:
    words = ["export", "own", "--runs", str(root), "--format", format, "--out", str(tmp_path), *["--best"] * best]
    assert invoke(words) == 0, capfd.readouterr().err
    about = json.loads((tmp_path / "model.json").read_text())
    history = json.loads((root / "own" / "report.json").read_text())["history"]
    wanted = max(history, key=lambda entry: entry["accuracy"]) if best else history[-1]
    assert (about["round"], about["metrics"]["loss"]) == (wanted["round"], wanted["loss"])
    config = configured(root, "own")
    task = load_task(config.training, config.system)
    written = (tmp_path / about["file"], tmp_path / "model.json")
    assert len({file.stat().st_mode for file in written}) == 1  # whoever may read the one may read the other
    model = tied((1, 8, 8), 10)
    model.load_state_dict(read(tmp_path / about["file"]))
    assert set(model.state_dict()) == set(read(tmp_path / about["file"]))
    assert task.evaluate(model, device=torch.device("cpu")).loss == pytest.approx(wanted["loss"], rel=1e-6)


def test_a_models_extra_state_is_exported_in_the_one_format_that_can_hold_it(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    monkeypatch.setattr(Tied, "get_extra_state", lambda self: {"words": ["a", "b"]}, raising=False)
    words = ["export", "own", "--runs", str(root), "--out", str(tmp_path)]
    assert invoke(words) == 1
    err = capfd.readouterr().err
    assert "'_extra_state' in the model's state dict is no tensor" in err and "--format pt" in err
    assert not list(tmp_path.iterdir())
    assert invoke([*words, "--format", "pt"]) == 0
    assert torch.load(tmp_path / "model.pt", weights_only=True)["_extra_state"] == {"words": ["a", "b"]}


def test_what_was_trained_is_exported_without_the_task(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    monkeypatch.setitem(sys.modules, tied.__module__, None)  # as on a machine that does not have it
    assert invoke(["export", "own", "--runs", str(root), "--trained-only", "--out", str(tmp_path), "--json"]) == 0
    about = json.loads(capfd.readouterr().out)
    state = load_file(tmp_path / "model.safetensors")
    assert about["trained_only"] and len(state) == about["trained_tensors"] == 6
    left_out = tied((1, 8, 8), 10).load_state_dict(state, strict=False).missing_keys
    assert left_out == ["second.weight", "second.bias"]


def test_a_run_without_a_finished_round_has_nothing_to_export(tmp_path: Path, capfd: Capture) -> None:
    (tmp_path / "empty").mkdir()
    assert invoke(["export", "empty", "--runs", str(tmp_path)]) == 1
    assert "there is no checkpoint in" in capfd.readouterr().err


def test_nodes_go_by_their_names_wherever_a_person_reads_or_types(root: Path, capfd: Capture) -> None:
    where = ("own", "--runs", str(root))
    assert invoke(["rewards", *where, "--format", "json"]) == 0
    rows = json.loads(capfd.readouterr().out)
    address = {row["name"]: row["node"] for row in rows}["node-2"]
    assert invoke(["ledger", "show", *where]) == 0
    shown = capfd.readouterr().out
    assert f"node-2   {address}" in shown
    proofs = []
    for node in ("node-2", address):
        assert invoke(["ledger", "proof", *where, "--node", node, "--round", "1"]) == 0
        proofs.append(json.loads(capfd.readouterr().out))
    assert proofs[0] == proofs[1]
    assert invoke(["ledger", "proof", *where, "--node", "node-22", "--round", "1"]) == 2
    assert "'node-22' is neither an address nor the name of a node of this run" in capfd.readouterr().err


def test_a_run_without_a_chain_shows_no_contract(root: Path, capfd: Capture) -> None:
    show_result(root / "own", "own", Format.DEFAULT)
    assert "no chain (blockchain.enabled = false)" in capfd.readouterr().out
    assert invoke(["chain", "status", "own", "--runs", str(root)]) == 0
    assert "0x" + "0" * 40 not in capfd.readouterr().out
