"""What `hypergpu run` decides before it starts anything, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr
from rounds import a_round

from hypergpu_fl.cli import run
from hypergpu_fl.cli.render import Format
from hypergpu_fl.cli.resuming import keep, layers_of
from hypergpu_fl.cli.submission import Submission
from hypergpu_fl.config import Blockchain, Config, Network, Secrets, Training, load
from hypergpu_fl.dashboard.run_view import RunView
from hypergpu_fl.errors import UsageError
from hypergpu_fl.runs import SUBMITTED
from hypergpu_fl.server.resumption import keep_settings
from hypergpu_fl.settlement import Settlement

Command = Callable[..., tuple[int, str, str]]
Logged = Callable[[str], Submission]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_every_way_of_stopping_is_ctrl_c_once_and_handlers_come_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with run.stoppable():
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
            time.sleep(5)
        os.kill(os.getpid(), number)  # ignored from now on, so that the clean-up comes to its end
        time.sleep(0.01)
    assert signal.getsignal(number) is before


def test_a_run_is_locked_while_it_is_at_work(tmp_path: Path) -> None:
    with run._run_folder(tmp_path, "a", replace=False, resume=False) as folder:
        (folder / "kept").touch()
        for how in ({"replace": True, "resume": False}, {"replace": False, "resume": True}):
            with pytest.raises(UsageError, match="at work"), run._run_folder(tmp_path, "a", **how):
                pass
        assert (folder / "kept").exists()
    with run._run_folder(tmp_path, "a", replace=False, resume=True) as folder:
        assert (folder / "kept").exists()
    with run._run_folder(tmp_path, "a", replace=True, resume=False) as folder:
        assert not (folder / "kept").exists()


@pytest.mark.parametrize("how", [{"replace": True, "resume": False}, {"replace": False, "resume": True}])
def test_a_run_whose_server_outlived_its_command_is_neither_replaced_nor_resumed(
    tmp_path: Path, how: dict[str, bool]
) -> None:
    with run._run_folder(tmp_path, "a", replace=False, resume=False) as folder:
        (folder / "kept").touch()
    settlement = Settlement.open(
        folder, Blockchain(enabled=False), Secrets(), salt=bytes(32), rounds=1, simulated_keys=True
    )
    with pytest.raises(UsageError, match="server of run 'a' is still at work"), run._run_folder(tmp_path, "a", **how):
        pass
    assert (folder / "kept").exists()
    settlement.close()
    with run._run_folder(tmp_path, "a", **how):
        assert (folder / "kept").exists() is how["resume"]


def test_a_run_that_its_chain_does_not_have_yet_is_not_replaced(tmp_path: Path) -> None:
    blockchain = {"kind": "rpc", "chain_id": 143, "rpc_url": "http://127.0.0.1:9", "contract": "0x" + "77" * 20}
    with run._run_folder(tmp_path, "a", replace=False, resume=False) as folder:
        key = Secrets(coordinator_key=SecretStr("33" * 32))
        away = Blockchain.model_validate(blockchain)
        settlement = Settlement.open(folder, away, key, salt=bytes(32), rounds=1, simulated_keys=True)
        settlement.seal(a_round(settlement.session, 1))
        settlement.close()
    with (
        pytest.raises(UsageError, match="2 transactions that are not final"),
        run._run_folder(tmp_path, "a", replace=True, resume=False),
    ):
        pass
    assert (folder / "run.db").is_file()
    (folder / "run.db").write_bytes(b"no database" * 500)
    with run._run_folder(tmp_path, "a", replace=True, resume=False):
        assert not (folder / "run.db").exists()


def test_what_is_kept_of_a_configuration_loads_again_and_holds_no_credentials(tmp_path: Path) -> None:
    environ = {
        "HYPERGPU_BLOCKCHAIN__RPC_URL": "https://u:hunter22@rpc.example",
        "HYPERGPU_BLOCKCHAIN__CHAIN_ID": "143",
        "HYPERGPU_BLOCKCHAIN__KIND": "rpc",
    }
    config = load(None, {"training.rounds": 3}, environ).config
    keep(tmp_path, run._for_this_run(config, tmp_path, "a", resume=False, deployed=False))
    assert "hunter22" not in (tmp_path / "config.json").read_text()
    assert load(tmp_path / "config.json", {}, environ).config == config


def begun(root: Path, name: str = "a", **training: object) -> Path:
    """Folder of a run that was begun with these settings."""
    (root / name).mkdir(parents=True)
    config = Config(training=Training.model_validate({"learning_rate": 0.001, **training}))
    keep(root / name, run._for_this_run(config, root, name, resume=False, deployed=False))
    return root / name


def test_a_resumed_run_is_refused_other_settings_before_anything_is_written(hypergpu: Command, tmp_path: Path) -> None:
    folder = begun(tmp_path / "runs")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    (tmp_path / "b.toml").write_text("[training]\nbatch_size = 64\n")
    code, _, err = hypergpu(
        *("run", "--resume", "a", "--runs", str(tmp_path / "runs"), "--config", "b.toml"),
        *("--set", "training.learning_rate=0.005", "--set", "training.rounds=40"),
    )
    assert code == 2
    for line in (
        "error: training.batch_size was 32 and is now 64 (in b.toml), but a resumed run cannot change it",
        "error: training.learning_rate was 0.001 and is now 0.005 (in --set), but a resumed run cannot change it",
        "--resume may change training.rounds, training.target,",
    ):
        assert line in err
    assert "training.rounds was" not in err
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert not (tmp_path / "runs" / "latest").exists()
    assert hypergpu("run", "--resume", "a", "--runs", str(tmp_path / "runs"), "--superlink", "far")[0] == 2


@pytest.mark.parametrize(
    ("text", "error", "remedy"),
    [
        (None, "'mine:Task' cannot be found", "run in the folder that holds it"),
        ("import gone\nTask = 1", "mine.py:1: the module `gone` is not installed here", "pip install gone"),
        ("def Task(:", "mine.py:1: invalid syntax", "correct that line"),
        ("Task = 1 / 0", "error: mine.py:1: ZeroDivisionError: division by zero", "correct that line"),
        ("Other = 1", "mine.py defines no 'Task'", "name a class or function of that module"),
        (
            "Task = print\nraise SystemExit(3)",
            "mine.py:2: SystemExit: 3",
            "raise an error that says what is wrong",
        ),
    ],
)
def test_a_task_that_cannot_be_imported_is_told_before_flower_starts(
    hypergpu: Command, tmp_path: Path, text: str | None, error: str, remedy: str
) -> None:
    if text is not None:
        (tmp_path / "mine.py").write_text(text)
    code, _, err = hypergpu("run", "--set", "training.task=mine:Task", "--runs", "r")
    assert code == 2 and error in err and remedy in err
    assert not (tmp_path / "r").exists()


def test_what_a_run_began_with_is_kept_and_the_next_resumption_starts_from_the_last_one(tmp_path: Path) -> None:
    folder = begun(tmp_path)
    before = (folder / "config.json").read_bytes()
    longer = load(layers_of(folder, None), {"training.rounds": "40"}).config
    keep(folder, run._for_this_run(longer, tmp_path, "a", resume=True, deployed=False))
    assert (folder / "config.json").read_bytes() == before
    assert json.loads((folder / "resumed.json").read_text()) == {"training": {"rounds": 40}}
    again = load(layers_of(folder, None)).config.training
    assert (again.rounds, again.learning_rate) == (40, 0.001)


def test_links_are_measured_on_a_deployment(tmp_path: Path) -> None:
    config = Config(network=Network(enable_simulation=True))
    assert run._for_this_run(config, tmp_path, "a", resume=False, deployed=False).network.enable_simulation
    deployed = run._for_this_run(config, tmp_path, "a", resume=True, deployed=True)
    assert not deployed.network.enable_simulation
    assert (deployed.system.run_name, deployed.system.resume) == ("a", True)


def test_a_run_without_a_name_is_called_by_what_it_learns(tmp_path: Path) -> None:
    own = Config(training=Training(model_architecture="my.models:BigNet", dataset="cifar10"))
    assert run._stem(own.training) == "cifar10-BigNet"
    (tmp_path / "digits-mlp-1").mkdir()
    with run._run_folder(tmp_path, "", replace=False, resume=False, stem=run._stem(Training())) as folder:
        assert folder.name == "digits-mlp-2"


REPORT = {
    "metrics": {"accuracy": 0.9312},
    "loss": 0.25,
    "rounds": 20,
    "clock": "virtual",
    "seconds": 431.2,
    "bytes_up": 1_500_000,
    "bytes_down": 2_000_000,
    "chain": {"kind": "embedded", "chain_id": 131277322940537, "contract": "0xabc", "commits": 20, "finalized": 20},
}


def test_the_last_table_tells_what_was_learnt_and_sealed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "report.json").write_text(json.dumps(REPORT))
    run.show_result(tmp_path, "demo", Format.DEFAULT)
    out = capsys.readouterr().out
    for text in ("0.9312", "virtual", "431.2", "1.5, 2", "20, 20", "0xabc", str(tmp_path)):
        assert text in out
    assert "warning" not in out
    run.show_result(tmp_path, "demo", Format.JSON)
    assert json.loads(capsys.readouterr().out)["report"] == REPORT
    (tmp_path / "report.json").write_text(json.dumps(REPORT | {"warning": "no better than the untrained one"}))
    run.show_result(tmp_path, "demo", Format.DEFAULT)
    assert "no better than the untrained one" in capsys.readouterr().out
    run.show_result(tmp_path / "elsewhere", "demo", Format.DEFAULT)
    assert "where the SuperLink runs" in capsys.readouterr().out


def test_a_run_on_a_superlink_is_taken_up_there_and_nowhere_else(hypergpu: Command, tmp_path: Path) -> None:
    folder = begun(tmp_path / "runs")
    (folder / SUBMITTED).write_text('{"run_id": "12", "connection": "deployed"}')
    code, _, err = hypergpu("run", "--resume", "a", "--runs", str(tmp_path / "runs"))
    assert code == 2
    assert "run 'a' was sent to the SuperLink 'deployed'" in err
    assert "remedy: `hypergpu run --superlink deployed --resume a`" in err


def test_the_server_keeps_what_a_run_began_with_unless_the_command_did(tmp_path: Path) -> None:
    config = run._for_this_run(Config(training=Training(rounds=7)), tmp_path, "a", resume=False, deployed=True)
    keep_settings(tmp_path, config)
    view = RunView(tmp_path)
    summary = view.summary()
    view.close()
    assert (summary["clock"], summary["rounds_wanted"], summary["task"]) == ("wall", 7, "digits mlp")
    keep_settings(tmp_path, Config())
    assert load(layers_of(tmp_path, None)).config.training.rounds == 7
