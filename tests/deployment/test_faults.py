"""What the internet and its machines do to a run. It completes, counts no round twice and loses no contribution."""

from __future__ import annotations

import itertools
import json
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from hypergpu_fl.cli import invoke
from hypergpu_fl.cli.submission import Submission
from hypergpu_fl.config import Config
from strategies.failure import root_cause
from tests.deployment.conftest import MakeStack
from tests.deployment.relay import Shape
from tests.deployment.stack import PROGRAMS, Stack, below

pytestmark = [pytest.mark.deployment, pytest.mark.slow]

LINK = Shape(50e6, 50e6, 0.03)
LIMIT_S = 1200.0
SUPEREXEC = "hypergpu_fl.node.superexec"
Configure = Callable[..., Config]


def started(make_stack: MakeStack, nodes: int, *options: str) -> Stack:
    """A SuperLink and its nodes, at work."""
    stack = make_stack([LINK] * nodes)
    stack.start_superlink(*options)
    stack.register()
    for index in range(nodes):
        stack.start_node(index)
    return stack


def rounds_done(stack: Stack, run: str) -> int:
    """Rounds that the run has closed so far."""
    log = stack.runs / run / "run.log"
    return len(re.findall(r"round +\d+/\d+", log.read_text())) if log.is_file() else 0


def wait_for_round(stack: Stack, run: str, round: int) -> None:
    """Until ``round`` is closed."""
    stack.wait_for(lambda: rounds_done(stack, run) >= round, f"round {round} of {run}", LIMIT_S)


def concluded(stack: Stack, run: str, submission: Submission, rounds: int) -> dict[str, Any]:
    """The report of a run that completed, with its books and its log in order."""
    status, details = stack.wait(submission, LIMIT_S)
    assert status == "finished:completed", f"{status}: {details}\n{submission.log()[-3000:]}"
    report: dict[str, Any] = json.loads((stack.runs / run / "report.json").read_text())
    assert [entry["round"] for entry in report["history"]] == list(range(1, rounds + 1))
    assert invoke(["ledger", "verify", run, "--runs", str(stack.runs)]) == 0
    assert invoke(["replay", run, "--runs", str(stack.runs)]) == 0
    ledger = json.loads((stack.runs / run / "ledger.json").read_text())
    booked = sum(len(sealed["contributions"]) for sealed in ledger["rounds"])
    assert booked == sum(entry["arrived"] for entry in report["history"]) > 0  # what was accepted is in the books
    return report


def registry(stack: Stack, run: str, capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    """The nodes as ``hypergpu nodes`` shows them, by name."""
    capsys.readouterr()
    assert invoke(["nodes", run, "--runs", str(stack.runs), "--format", "json"]) == 0
    return {node["node"]: node for node in json.loads(capsys.readouterr().out)}


def test_a_fifth_of_the_nodes_killed_every_round(make_stack: MakeStack, configure: Configure) -> None:
    stack = started(make_stack, 5)
    submission = stack.submit(configure(stack, "killed", training__rounds=5, network__quota=0.6))
    for round, index in zip(range(1, 5), itertools.cycle(range(5)), strict=False):
        wait_for_round(stack, "killed", round)
        process = stack.nodes[index].process
        assert process is not None
        stack.kill(process)
        stack.start_node(index)  # refused for up to a minute, then the same node again
    concluded(stack, "killed", submission, 5)


def test_a_node_that_hangs_holds_up_nobody_and_is_used_again(
    make_stack: MakeStack, configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    stack = started(make_stack, 3)
    submission = stack.submit(configure(stack, "hung", training__rounds=8, network__quota=0.6))
    wait_for_round(stack, "hung", 1)
    process = stack.nodes[0].process
    assert process is not None
    stack.kill(process, signal.SIGSTOP)
    wait_for_round(stack, "hung", 4)
    successes = registry(stack, "hung", capsys)["node-0"]["last_seen"]
    stack.kill(process, signal.SIGCONT)
    concluded(stack, "hung", submission, 8)
    assert registry(stack, "hung", capsys)["node-0"]["last_seen"] > successes


def test_a_link_cut_for_30_seconds(
    make_stack: MakeStack, configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    stack = started(make_stack, 3)
    # The rounds outlast the cut, and then ten deadlines, after which a reply that the cut swallowed is given up and its
    # node is asked anew.
    submission = stack.submit(configure(stack, "cut", training__rounds=60, network__quota=0.6))
    wait_for_round(stack, "cut", 1)
    stack.change(1, cut=True)
    cut = registry(stack, "cut", capsys)["node-1"]["last_seen"]
    time.sleep(30)
    stack.change(1, cut=False)
    concluded(stack, "cut", submission, 60)
    assert registry(stack, "cut", capsys)["node-1"]["last_seen"] > cut


def test_a_superlink_that_is_killed_and_restarted_goes_on_by_itself(
    make_stack: MakeStack, configure: Configure, tmp_path: Path
) -> None:
    options = ("--isolation", "process", "--database", str(tmp_path / "superlink.db"))
    stack = started(make_stack, 2, *options)
    stack.start(
        "superexec",
        [str(PROGRAMS / "flower-superexec"), "--runtime-api-address", f"127.0.0.1:{stack.port}"]
        + ["--root-certificates", str(tmp_path / "keys" / "ca.crt")],
    )
    submission = stack.submit(configure(stack, "restarted", training__rounds=5))
    wait_for_round(stack, "restarted", 2)
    assert stack.superlink is not None
    stack.kill(stack.superlink)
    time.sleep(10)
    stack.start_superlink(*options)
    concluded(stack, "restarted", submission, 5)


def test_a_killed_server_app_resumes_where_the_books_end(make_stack: MakeStack, configure: Configure) -> None:
    stack = started(make_stack, 2)
    submission = stack.submit(configure(stack, "resumed", training__rounds=5))
    wait_for_round(stack, "resumed", 2)
    assert stack.superlink is not None
    kill_app(stack.superlink, "flwr-serverapp")
    status, _ = stack.wait(submission, 180)
    assert status == "finished:failed"
    again = stack.submit(configure(stack, "resumed", training__rounds=5, system__resume="true"))
    history = concluded(stack, "resumed", again, 5)["history"]
    assert all(before["seconds"] < after["seconds"] for before, after in itertools.pairwise(history))
    longer = stack.submit(configure(stack, "resumed", training__rounds=6, system__resume="true"))
    kept = concluded(stack, "resumed", longer, 6)
    assert [(s["from_round"], s["to_round"], len(s["settings"])) for s in kept["stretches"][1:]] == [(6, 6, 1)]
    changed = configure(stack, "resumed", training__rounds=9, training__learning_rate=0.123, system__resume="true")
    other = stack.submit(changed)
    assert stack.wait(other, LIMIT_S)[0] == "finished:failed"
    cause, remedy = root_cause(other.log()) or ("", "")
    assert "training.learning_rate was" in cause and "is now 0.123" in cause and "training.rounds" in remedy
    assert json.loads((stack.runs / "resumed" / "report.json").read_text()) == kept


def test_a_worker_that_runs_out_of_memory(
    make_stack: MakeStack, configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    stack = started(make_stack, 3)
    processes = [node.process for node in stack.nodes if node.process is not None]
    kill_app(processes[0], SUPEREXEC)  # another one takes its place
    submission = stack.submit(configure(stack, "memory", training__rounds=5, network__quota=0.6))
    wait_for_round(stack, "memory", 1)
    chosen = max(below(processes[2]), key=oom_score)
    assert SUPEREXEC in psutil.Process(chosen.ppid()).cmdline()  # a process that it has forked
    chosen.kill()
    concluded(stack, "memory", submission, 5)
    assert registry(stack, "memory", capsys)["node-0"]["success_rate"] == 1.0


def test_a_node_whose_disk_is_full(
    make_stack: MakeStack, configure: Configure, full_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stack = make_stack([LINK] * 3)
    stack.start_superlink()
    stack.register()
    for index in range(3):
        stack.start_node(index, **({"state_dir": str(full_disk)} if index == 0 else {}))
    submission = stack.submit(configure(stack, "full", training__rounds=4, network__quota=0.6))
    concluded(stack, "full", submission, 4)
    node = registry(stack, "full", capsys)["node-0"]
    assert node["success_rate"] in (None, 0.0)
    assert "cannot keep its state: No space left on device" in node["last_failure"]


def oom_score(process: psutil.Process) -> int:
    """How likely the kernel is to kill a process when memory runs out."""
    try:
        return int(Path(f"/proc/{process.pid}/oom_score").read_text())
    except OSError:  # it has ended
        return 0


def kill_app(process: subprocess.Popen[bytes], program: str) -> None:
    """SIGKILL a program that a SuperLink or SuperNode has started."""
    until_s = time.monotonic() + 120
    while time.monotonic() < until_s:
        for one in below(process):
            try:
                if any(word.endswith(program) for word in one.cmdline()[:4]):
                    one.kill()
                    return
            except psutil.Error:
                continue
        time.sleep(0.1)
    raise RuntimeError(f"no {program} was started within 120 s")
