"""Whatever of a deployment by compose ends in a run and starts again, the run completes without a hand."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.deployment.attendance import Attendance, attendance
from tests.deployment.forms import Compose, brought_up, documented
from tests.deployment.machine import Machine

pytestmark = [pytest.mark.deployment, pytest.mark.slow]

NODE = "node-1-node"
SERVED = ("superlink", "superexec", "proxy")
LIMIT_S = 600.0
OFF_S = 3.0
SHUT_OUT_S = 60.0  # until Flower lets in again a node that has vanished without leaving
BACK_AFTER_SIGKILL_S = 150.0  # noticed within a minute, let in a minute later


@pytest.fixture(scope="module")
def up(machine_of_module: Machine) -> Compose:
    """A server and two sites, up for all tests here."""
    return brought_up(machine_of_module)


@pytest.fixture(autouse=True)
def without_what_has_ended(up: Compose) -> Iterator[None]:
    """Forget the operators' containers of this test, so that a failure is its own."""
    yield
    for name in ended(up.machine):
        up.machine.running.pop(name)


class Run:
    """A run that an operator's container has submitted, and follows."""

    def __init__(self, up: Compose, name: str, rounds: int) -> None:
        self.up, self.machine, self.name, self.rounds = up, up.machine, name, rounds
        settings = {"training.num_nodes": 3, "training.rounds": rounds, "network.cohort": 3}
        words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        self.operator = up.start(["operator", "run", "--superlink", "deployed", "--name", name, *words])
        self.folder = up.folder / "state" / "runs" / name

    def done(self) -> int:
        """Rounds that are closed."""
        log = self.folder / "run.log"
        return max(map(int, re.findall(r"round +(\d+)/", log.read_text())), default=0) if log.exists() else 0

    def reach(self, round: int) -> None:
        """Wait for a round."""
        self.machine.until(lambda: self.done() >= round, f"round {round}", LIMIT_S)

    def left_alone(self) -> None:
        """Kill the command that submitted it, for good."""
        self.operator.kill()
        self.machine.running.pop(self.operator.container.name)

    def concluded(self) -> tuple[list[dict[str, Any]], Attendance]:
        """Each round of the report and who was there, once the run is complete with its books in order."""
        report = self.folder / "report.json"
        self.machine.until(lambda: report.exists() and self.done() == self.rounds, "the report", LIMIT_S)
        assert f"verified: {self.rounds} rounds" in self.up.run(["operator", "ledger", "verify", self.name])
        history: list[dict[str, Any]] = json.loads(report.read_text())["history"]
        assert [entry["round"] for entry in history] == list(range(1, self.rounds + 1))
        there = attendance((self.folder / "events.jsonl").read_text().splitlines())
        lost, away_s = ({key: kept[key] for key in sorted(kept)} for kept in (there.lost, there.away_s))
        arrived = [entry["arrived"] for entry in history]
        print(f"{self.name}: {history[-1]['seconds']:.0f} s, arrived {arrived}, lost {lost}, away {away_s} s")
        assert len(there.asked[self.rounds]) == history[-1]["arrived"] == 3  # all are back
        assert not any(there.passed_over.values()), there.passed_over  # nobody is left out who is there
        return history, there

    def nodes(self) -> dict[str, dict[str, Any]]:
        """What the run knows of each node."""
        told = json.loads(self.up.run(["operator", "nodes", self.name, "--format", "json"]))
        return {node["node"]: node for node in told}


def restart(machine: Machine, *names: str, how: signal.Signals) -> None:
    """End containers and start them again."""
    for name in names:
        one = machine.running[name]
        one.kill() if how == signal.SIGKILL else one.end(how)
    time.sleep(OFF_S)
    for name in names:
        machine.running[name].start_again()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=lambda how: how.name)
@pytest.mark.parametrize("what", SERVED)
def test_the_run_completes_when_a_container_of_the_server_restarts(up: Compose, what: str, how: signal.Signals) -> None:
    run = Run(up, f"{what}-{how.name.lower()}", 8)
    run.reach(2)
    restart(up.machine, what, how=how)
    history, there = run.concluded()
    up.machine.until(lambda: run.operator.code == 0, "the command that submitted to end well", LIMIT_S)
    assert not there.lost
    assert all(entry["arrived"] == 3 for entry in history)
    assert all(node["success_rate"] == 1.0 for node in run.nodes().values())


def test_the_run_completes_when_the_serverapp_is_killed(up: Compose) -> None:
    run = Run(up, "serverapp", 8)
    run.reach(2)
    first = up.machine.running["superexec"].first
    assert first is not None
    app = next(one for one in first.children(recursive=True) if "hypergpu_fl.server.serverapp_process" in one.cmdline())
    app.kill()
    run.concluded()
    up.machine.until(lambda: run.operator.code == 0, "the command that submitted to end well", LIMIT_S)
    assert all(node["success_rate"] == 1.0 for node in run.nodes().values())


def test_a_node_that_is_told_to_end_loses_nothing_and_is_back_soon(up: Compose) -> None:
    run = Run(up, "node-sigterm", 20)
    run.reach(2)
    restart(up.machine, NODE, how=signal.SIGTERM)
    _, there = run.concluded()
    node = run.nodes()["node-1"]
    assert node["success_rate"] == 1.0 and not node["last_failure"]
    log = up.machine.running[NODE].log
    assert log.count("Receiving: train message") == log.count("Sending: train message")  # what it began, it finished
    assert there.lost.keys() <= {"node-1"} and len(there.lost.get("node-1", ())) <= 1  # sent to it just as it left
    (away_s,) = there.away_s["node-1"]
    assert away_s < SHUT_OUT_S


def test_a_node_that_is_killed_is_used_again(up: Compose) -> None:
    run = Run(up, "node-sigkill", 60)  # Flower lets its key in again after a minute
    run.reach(2)
    restart(up.machine, NODE, how=signal.SIGKILL)
    _, there = run.concluded()
    assert there.lost.keys() <= {"node-1"} and len(there.lost.get("node-1", ())) <= 1  # what it had in hand
    (away_s,) = there.away_s["node-1"]
    assert away_s < BACK_AFTER_SIGKILL_S


def test_the_run_completes_without_the_command_that_submitted_it_and_another_finds_it(up: Compose) -> None:
    run = Run(up, "operator", 8)
    run.reach(2)
    run.left_alone()
    said = up.run(["operator", "attach", "operator"])
    assert "round   8/8" in said
    run.concluded()


def test_the_run_completes_when_everything_is_killed_at_once(up: Compose) -> None:
    run = Run(up, "everything", 40)  # nodes are let in again after up to two minutes, each at its own time
    run.reach(2)
    run.left_alone()
    restart(up.machine, *up.machine.running.keys() - ended(up.machine), how=signal.SIGKILL)
    run.concluded()


def test_a_server_that_is_restored_from_its_backup_goes_on_with_the_run(up: Compose) -> None:
    run = Run(up, "restored", 8)
    run.reach(2)
    run.left_alone()
    served = [up.machine.running[name] for name in ("superexec", "superlink")]
    for one in served:
        one.end()
    backup, everything = documented("sudo tar -czf")[:2]
    subprocess.run(["tar", "-czf", backup, everything], cwd=up.folder, check=True)
    for name in ("state", "superlink"):  # what is there is lost, and comes back
        shutil.rmtree(up.folder / name)
    subprocess.run(["tar", "-xzf", backup], cwd=up.folder, check=True)
    for one in reversed(served):
        one.start_again()
    run.concluded()


def ended(machine: Machine) -> set[str]:
    """Containers that had but one thing to do."""
    return {name for name, one in machine.running.items() if one.code is not None and not one.container.restarts}
