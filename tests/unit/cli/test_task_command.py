"""`hypergpu task check`, and the same trial before a run and by the doctor."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hypergpu_fl.cli.preflight import try_apart
from hypergpu_fl.cli.round_costs import RoundCost, round_costs
from hypergpu_fl.cli.submission import app_folder
from hypergpu_fl.codec import LEVELS
from hypergpu_fl.codec.payload import COMPRESSIONS
from hypergpu_fl.config import load
from hypergpu_fl.network.wan import SimulatedLink
from strategies.lineup import rules
from strategies.settings import Settings

Command = Callable[..., tuple[int, str, str]]
DEMO = app_folder() / "configs" / "demo.toml"

LINE = """\
import torch
import torch.nn.functional as F
from torch import nn
from hypergpu_fl.task import TorchTask

class Line(TorchTask):
    def model(self):
        return nn.Linear(30, 20)

    def data(self, partition):
        print("read", partition)
        inputs = torch.randn(40, 30, generator=torch.Generator().manual_seed(0))
        return inputs, inputs[:, :20]

    def loss(self, model, batch):
        return F.mse_loss(model(batch[0]), batch[1])
"""
CONFIG = """\
[training]
task = "{}:Line"
num_nodes = 4
[blockchain]
enabled = false
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """Name of a module in the working directory that no other test has imported."""
    name = f"line_{request.node.name.partition('[')[0][-40:]}"
    (tmp_path / f"{name}.py").write_text(LINE)
    (tmp_path / "run.toml").write_text(
        f'[training]\ntask = "{name}:Line"\nnum_nodes = 4\n[blockchain]\nenabled = false\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return name


def test_a_task_is_tried_and_priced_over_each_of_the_links(project: str, hypergpu: Command) -> None:
    Path("slow.csv").write_text("client,compute_ms_per_sample,bandwidth_kbps\n" + "1,2,8\n" * 4)
    code, out, err = hypergpu(
        "task", "check", f"{project}:Line", "--config", "run.toml", "--links", "lan", "--links", "slow.csv",
        "--format", "json",
    )  # fmt: skip
    assert code == 0, err
    found = json.loads(out.partition("{")[1] + out.partition("{")[2])
    assert found["model_bytes"] == 4 * (30 * 20 + 20) and found["trained"]["steps"] == 2
    rows = found["costs"]
    assert {row["links"] for row in rows} == {"lan", "slow.csv"} and {row["level"] for row in rows} == set(LEVELS)
    for links in ("lan", "slow.csv"):
        assert sum(row["nodes"] for row in rows if row["links"] == links) == 4
    raw = {row["links"]: row for row in rows if row["level"] == "raw"}
    # 8 kbit/s up and 2.5 times as fast down, three round trips of 80 ms, 2 ms a sample, batches of 32
    bits = 8 * raw["slow.csv"]["update_bytes"]
    assert raw["slow.csv"]["median_s"] == pytest.approx(
        bits / 8e3 + bits / 20e3 + 0.24 + 0.064 * raw["slow.csv"]["steps"]
    )
    assert raw["lan"]["median_s"] < raw["slow.csv"]["median_s"]


def test_the_table_names_what_passed_and_what_a_round_costs(project: str, hypergpu: Command) -> None:
    code, out, _ = hypergpu("task", "check", f"{project}:Line", "--set", "network.codec=int8")
    assert code == 0
    assert "nodes at this level: for how many of the 10 nodes (training.num_nodes)" in out
    assert "arrays come back as they went" in out and "int8" in out and "top64" not in out


def test_an_error_of_the_users_code_is_told_with_its_line_everywhere(project: str, hypergpu: Command) -> None:
    Path(f"{project}.py").write_text(LINE.replace("[:, :20]", "[:, :7].long()"))
    line = next(i for i, text in enumerate(LINE.splitlines(), 1) if "mse_loss" in text)
    for command in (["task", "check", f"{project}:Line"], ["run", "--config", "run.toml"]):
        code, _, err = hypergpu(*command)
        assert code == 2 and f"{project}.py:{line}: " in err and "remedy: " in err, err
    assert not Path("runs").exists()
    code, out, _ = hypergpu("doctor", "--config", "run.toml", "--format", "json")
    (row,) = [row for row in json.loads(out) if row["check"] == "task"]
    assert code == 1 and row["status"] == "missing" and f"{project}.py:{line}: " in row["found"] and row["remedy"]


def test_what_lies_beside_a_task_and_is_not_imported_by_it_does_no_harm(project: str, hypergpu: Command) -> None:
    for name in ("queue", "json", "pickle", "strategies"):
        Path(f"{name}.py").write_text("raise SystemExit('not asked for')")
    code, _, err = hypergpu("task", "check", f"{project}:Line")
    assert code == 0, err


def test_a_misspelt_profile_is_refused_before_the_task_is_tried(project: str, hypergpu: Command) -> None:
    Path(f"{project}.py").write_text(LINE.replace('print("read", partition)', "raise SystemExit"))
    code, _, err = hypergpu("task", "check", f"{project}:Line", "--links", "broadbant")
    assert code == 2 and "'broadbant' is no profile" in err and "broadband" in err


def test_the_doctor_tries_the_task_of_the_configuration(project: str, hypergpu: Command) -> None:
    code, out, _ = hypergpu("doctor", "--config", "run.toml", "--format", "json")
    (row,) = [row for row in json.loads(out) if row["check"] == "task"]
    assert code == 0 and row["status"] == "ok" and "one step on a share of 40 examples" in row["found"]


def test_a_target_that_is_not_measured_is_refused_before_flower_starts(project: str, hypergpu: Command) -> None:
    code, _, err = hypergpu("run", "--config", "run.toml", "--set", "training.target=f1 >= 0.9")
    assert code == 2 and "but the task measures loss" in err
    assert not Path("runs").exists()


LINK = SimulatedLink(rtt_s=0.1, jitter_s=0.0, loss=0.0, uplink_bps=1e6, downlink_bps=2e6, sample_s=0.01)


def costs(*links: SimulatedLink, policy: str = "network_aware", **settings: Any) -> list[RoundCost]:
    """What rounds of nodes with 100 examples cost; an update of 125,000 bytes has half of them at int8."""
    sent = dict.fromkeys(LEVELS, 125_000) | {"int8": 62_500}
    made_of = rules(policy, Settings(cohort=5, **settings), model_values=31_250, levels=COMPRESSIONS)
    return round_costs("some", links, sent, made_of, examples=100)


def test_a_slow_node_costs_what_its_own_link_does() -> None:
    link = replace(LINK, sample_s=0.0)
    slow = replace(link, uplink_bps=1e5, downlink_bps=2e5)
    (cost,) = costs(*[link] * 8, *[slow] * 2, codec="raw", local_steps=1)
    assert cost.median_s == pytest.approx(1 + 0.5 + 0.3)
    assert np.isclose(cost.slow_s, 10 + 5 + 0.3, rtol=0.6) and cost.slow_s > 5
    assert (cost.nodes, cost.steps) == (10, 1)


def test_a_round_costs_what_the_configured_policy_and_the_named_downlink_level_make_of_it() -> None:
    (peers,) = costs(*[LINK] * 4, policy="random")
    assert (peers.level, peers.nodes, peers.steps) == ("raw", 4, 4)  # one pass over 100 examples, in batches of 32
    assert peers.median_s == pytest.approx(1 + 0.5 + 0.3 + 4 * 32 * 0.01)
    assert len(costs(*[LINK] * 4)) == len(LEVELS)
    (both,), (up,) = costs(LINK, codec="int8"), costs(LINK, codec="int8", downlink_codec="raw")
    work_s = [0.01 * 32 * cost.steps for cost in (both, up)]
    assert both.median_s - work_s[0] == pytest.approx(0.5 + 0.25 + 0.3)
    assert up.median_s - work_s[1] == pytest.approx(0.5 + 0.5 + 0.3)


@pytest.mark.timed
def test_the_check_before_a_run_of_the_demo_takes_at_most_5_s_of_processor_beyond_imports(tmp_path: Path) -> None:
    config = load(DEMO, {"system.runs_dir": str(tmp_path)}).config

    def used_s() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    began_s = used_s()
    subprocess.run([sys.executable, "-c", "import torch, hypergpu_fl.task.image"], check=True)
    imported_s = used_s() - began_s
    assert try_apart(config, app_folder())["accuracy"] < 0.5
    assert used_s() - began_s - 2 * imported_s <= 5.0


def test_a_file_named_with_its_ending_is_told_to_leave_it_out(project: str, hypergpu: Command) -> None:
    code, _, err = hypergpu("task", "check", f"{project}.py:Line")
    assert code == 2 and f"'{project}.py:Line' cannot be found" in err
    assert f"remedy: did you mean {project}:Line?" in err


def test_a_configuration_that_lies_here_unread_is_mentioned(project: str, hypergpu: Command) -> None:
    Path("config.toml").write_text(CONFIG.format(project))
    _, _, err = hypergpu("task", "check", "no_such:Task")
    assert "warning: config.toml lies here but is not read; --config config.toml reads it" in err
    _, _, err = hypergpu("run", "--set", "training.task=no_such:Task")
    assert "warning: config.toml lies here but is not read" in err
    _, _, err = hypergpu("task", "check", "no_such:Task", "--config", "config.toml")
    assert "not read" not in err


def test_a_figure_that_is_not_finite_is_named_where_the_others_passed(project: str, hypergpu: Command) -> None:
    lines = "\n    def metrics(self, model, batch):\n        return {'f1': float('nan')}\n"
    Path(f"{project}.py").write_text(LINE + lines)
    code, out, _ = hypergpu("task", "check", "--config", "run.toml", "--set", "network.codec=int8")
    assert code == 0 and "every figure is finite" not in out
    assert "not finite: trained f1, held_out f1, validation f1" in " ".join(out.split())


ENDS: dict[str, tuple[str, str]] = {
    "exits with 0": ("import os; os._exit(0)", "ended with code 0"),
    "exits with 3": ("import os; os._exit(3)", "ended with code 3"),
    "crashes": ("import ctypes; ctypes.string_at(0)", "was ended by SIGSEGV"),
    "raises": ("raise ValueError('no file of this node')", "ValueError: no file of this node"),
}


@pytest.mark.parametrize("share", [0, 3])
@pytest.mark.parametrize("end", ENDS)
def test_a_task_that_ends_its_process_at_any_share_never_passes(
    project: str, hypergpu: Command, end: str, share: int
) -> None:
    how, cause = ENDS[end]
    Path(f"{project}.py").write_text(
        LINE.replace("        print(", f"        if partition == {share}: {how}\n        print(")
    )
    code, out, err = hypergpu("task", "check", "--config", "run.toml")
    assert code == 2 and not out and cause in err and "remedy: " in err, err


@pytest.mark.parametrize("end", ENDS)
def test_a_task_that_ends_its_process_is_told_before_flower_starts(project: str, hypergpu: Command, end: str) -> None:
    how, cause = ENDS[end]
    Path(f"{project}.py").write_text(LINE.replace("        print(", f"        {how}\n        print("))
    code, _, err = hypergpu("run", "--config", "run.toml")
    assert code == 2 and cause in err and "remedy: " in err, err
    assert not Path("runs").exists()


def test_every_share_is_tried_and_those_too_small_to_train_on_are_named(project: str, hypergpu: Command) -> None:
    Path(f"{project}.py").write_text(LINE.replace("randn(40,", "randn(1 if partition == 2 else 40,"))
    code, out, err = hypergpu("task", "check", "--config", "run.toml", "--format", "json")
    assert code == 0, err
    assert json.loads(out)["other_shares"] == {"tried": 2, "too_small": [2], "not_tried": 0}
    assert "read 3" in err
    code, _, err = hypergpu("task", "check", "--config", "run.toml")
    assert code == 0 and "warning: share 2 was not tried: it has too few examples" in err
    code, out, err = hypergpu("task", "check", "--config", "run.toml", "--format", "json", "--partition", "1")
    assert code == 0 and "other_shares" not in json.loads(out) and "read 3" not in err


def test_a_thread_that_a_task_leaves_behind_holds_up_no_run(
    project: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    thread = "import threading, time\nthreading.Thread(target=time.sleep, args=(900.0,)).start()\n"
    (tmp_path / f"{project}.py").write_text(thread + LINE)
    monkeypatch.setattr("hypergpu_fl.cli.preflight.TRIAL_LIMIT_S", 60.0)
    assert try_apart(load(tmp_path / "run.toml").config, tmp_path)["loss"] > 0


LEFT_BEHIND = {
    "a thread": "threading.Thread(target=time.sleep, args=(900.0,)).start()",
    "a process": "pid = os.fork() or (time.sleep(900.0), os._exit(0))\nPath('left').write_text(str(pid))",
}


@pytest.mark.parametrize("left", LEFT_BEHIND)
def test_what_a_task_leaves_behind_holds_up_no_check(project: str, hypergpu: Command, left: str) -> None:
    imports = "import os, threading, time\nfrom pathlib import Path\n"
    Path(f"{project}.py").write_text(f"{imports}{LEFT_BEHIND[left]}\n{LINE}")
    began_s = time.monotonic()
    code, out, err = hypergpu("task", "check", "--config", "run.toml", "--format", "json")
    if left == "a process":
        os.kill(int(Path("left").read_text()), signal.SIGKILL)
    assert code == 0 and json.loads(out)["trained"]["steps"] == 2, err
    assert time.monotonic() - began_s < 300.0
