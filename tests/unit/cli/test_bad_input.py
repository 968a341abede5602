"""Whatever a user gets wrong is told in one line of cause and one of remedy, with exit code 2."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., tuple[int, str, str]]

FILES = {
    "unknown_key.json": '{"training": {"learning_rat": 0.1}}',
    "wrong_type.json": '{"training": {"rounds": "many"}}',
    "negative.toml": "[training]\nlearning_rate = -0.5\n",
    "dataset.toml": '[training]\ndataset = "fashion-mnist"\n',
    "nodes.json": '{"training": {"num_nodes": 0}}',
    "broken.json": '{"training":\n {"rounds" 3}}',
    "broken.toml": "[training]\nrounds = = 3\n",
    "root.json": '{"training": {"dataset": "folder", "data_root": "nowhere"}}',
    "secret.json": '{"blockchain": {"private_key": "0xabcdef"}}',
    "good.json": "{}",
}
MATRIX = [
    ("unknown_key.json", "training.learning_rat is not a setting (in unknown_key.json)", "training.learning_rate?"),
    (
        "wrong_type.json",
        "training.rounds is 'many' (in wrong_type.json), but must be a whole number",
        "training.rounds",
    ),
    ("negative.toml", "training.learning_rate is -0.5 (in negative.toml), but must be above 0", "above 0"),
    ("dataset.toml", "training.dataset is 'fashion-mnist' (in dataset.toml), but must be one of", "'fashion_mnist'?"),
    ("nodes.json", "training.num_nodes is 0 (in nodes.json), but must be at least 1", "at least 1"),
    ("missing.json", "there is no file missing.json", "check the path"),
    ("broken.json", "broken.json is not valid JSON at line 2 column 12", "line 2 column 12"),
    ("broken.toml", "broken.toml is not valid TOML at line 2 column 10", "line 2 column 10"),
    ("secret.json", "blockchain.private_key looks like a secret (in secret.json)", "HYPERGPU_COORDINATOR_KEY"),
]


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "flower"))
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)


def assert_one_fault(answer: tuple[int, str, str], cause: str, remedy: str) -> None:
    code, out, err = answer
    assert (code, out) == (2, "")
    first, second = err.splitlines()
    assert first.startswith("error: ") and cause in first
    assert second.startswith("remedy: ") and remedy in second


@pytest.mark.parametrize(
    "command", [["config", "check"], ["config", "show", "--config"], ["run", "--config"]], ids=" ".join
)
@pytest.mark.parametrize(("file", "cause", "remedy"), MATRIX, ids=[row[0] for row in MATRIX])
def test_a_faulty_file_is_refused_by_every_command_that_reads_one(
    hypergpu: Command, tmp_path: Path, command: list[str], file: str, cause: str, remedy: str
) -> None:
    assert_one_fault(hypergpu(*command, file), cause, remedy)
    assert not (tmp_path / "runs").exists()


# Flower's run-config, a message and a terminal cannot carry such a path.
@pytest.mark.parametrize("name", ["r\nns", "a\tb", "\x1b[2J", "non\udcffutf"], ids=ascii)
@pytest.mark.parametrize("way", ["--runs", "HYPERGPU_RUNS", "the folder of the call"])
@pytest.mark.parametrize(
    "command",
    ["run --config {}/good.json", "doctor", "attach x", "ledger list", "report x"],
    ids=lambda words: words[:6],
)
def test_a_runs_folder_of_a_name_that_cannot_be_told_is_refused(
    hypergpu: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, way: str, name: str
) -> None:
    words, odd = command.format(tmp_path).split(), tmp_path / name
    if way == "--runs":
        words += ["--runs", str(odd)]
    elif way == "HYPERGPU_RUNS":
        monkeypatch.setenv(way, str(odd))
    else:
        odd.mkdir()
        monkeypatch.chdir(odd)
    assert_one_fault(hypergpu(*words), repr(name)[1:-1], "rename that folder, or name another one")
    assert not odd.exists() or not any(odd.iterdir())


def test_a_run_in_a_folder_of_a_name_that_cannot_be_told_is_not_resumed(hypergpu: Command, tmp_path: Path) -> None:
    run = tmp_path / "r\nns" / "demo"
    run.mkdir(parents=True)
    (run / "config.json").write_text("{}")
    assert_one_fault(hypergpu("run", "--resume", str(run)), "r\\nns", "rename that folder")


def test_a_data_root_without_the_set_is_refused_before_anything_starts(hypergpu: Command, tmp_path: Path) -> None:
    assert_one_fault(hypergpu("run", "--config", "root.json"), "nowhere", "train/<class>")
    assert not list(tmp_path.glob("runs/*/run.log"))


def test_a_port_in_use_is_refused(hypergpu: Command) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        answer = hypergpu("run", "--config", "good.json", "--port", str(port))
    assert_one_fault(answer, f"port {port} cannot be used: Address already in use", "--port")
    assert_one_fault(hypergpu("run", "--port", "70000"), "port 70000 cannot be used", "--port")


def test_an_existing_run_is_not_overwritten(hypergpu: Command, tmp_path: Path) -> None:
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "mine.py").write_text("raise AssertionError('a trial that takes seconds')\nclass Task: ...\n")
    answer = hypergpu("run", "--name", "mine", "--set", "training.task=mine:Task")
    assert_one_fault(answer, "there is a run 'mine'", "--replace")
    assert (tmp_path / "runs" / "mine").is_dir()


@pytest.mark.parametrize(
    ("words", "cause", "remedy"),
    [
        (["run", "--resume", "x", "--name", "y"], "--resume goes with neither", "leave out"),
        (["run", "--resume", "x"], "there is no run under", "hypergpu run"),
        (["run", "--name", "../up"], "the run name '../up' must be", "another name"),
        (["run", "--set", "training.rounds=none"], "training.rounds is 'none' (in --set)", "whole number"),
        (["run", "--superlink", "lokal"], "config.toml has no connection 'lokal'", "did you mean 'local'?"),
        (["run", "--superlink", "site"], "config.toml has no connection 'site'", "hypergpu server start"),
        (["attach", "17", "--superlink", "lokal"], "has no connection 'lokal'", "did you mean 'local'?"),
        (["run", "--format", "xml"], "'xml' is not one of", "hypergpu run --help"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_options_are_refused(
    hypergpu: Command, tmp_path: Path, words: list[str], cause: str, remedy: str
) -> None:
    assert_one_fault(hypergpu(*words), cause, remedy)
    assert not (tmp_path / "runs").exists()


def test_a_variable_with_a_wrong_value_is_named(hypergpu: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERGPU_TRAINING__ROUNDS", "0")
    assert_one_fault(hypergpu("config", "show"), "training.rounds is 0 (in HYPERGPU_TRAINING__ROUNDS)", "at least 1")


def test_faults_of_a_file_come_all_at_once(hypergpu: Command, tmp_path: Path) -> None:
    (tmp_path / "many.json").write_text('{"training": {"rounds": 0, "epochs": -1, "nodes": 3}, "netwrk": {"x": 1}}')
    code, _, err = hypergpu("run", "--config", "many.json")
    lines = err.splitlines()
    assert code == 2
    assert len(lines) == 8
    assert all(line.startswith(("error: ", "remedy: ")[i % 2]) for i, line in enumerate(lines))
