"""What runs on the server's side ends and is started again; the run completes without a hand."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import httpx
import psutil
import pytest
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient

from hypergpu_fl.config import Config
from tests.deployment.conftest import MakeStack
from tests.deployment.stack import PROGRAMS, Stack, below
from tests.deployment.test_faults import LINK, concluded, rounds_done, wait_for_round

pytestmark = [pytest.mark.deployment, pytest.mark.slow]

Configure = Callable[..., Config]
SUPEREXEC, SERVERAPP = "hypergpu_fl.server.superexec", "hypergpu_fl.server.serverapp_process"
OFF_S = 12.0


def served(make_stack: MakeStack, nodes: int) -> Stack:
    """A server and nodes, started as deploy/README does."""
    stack = make_stack([LINK] * nodes)
    stack.start_server()
    stack.register()
    for index in range(nodes):
        stack.start_node(index)
    return stack


def process_of(stack: Stack, module: str) -> psutil.Process:
    """The live process below the server that runs a module of ours."""
    assert stack.superlink is not None
    for process in below(stack.superlink):
        try:
            if module in process.cmdline()[:5]:
                return process
        except psutil.Error:
            continue
    raise AssertionError(f"no {module} runs")


def test_a_run_goes_on_by_itself_when_what_serves_it_is_killed_and_started_again(
    make_stack: MakeStack, configure: Configure
) -> None:
    stack = served(make_stack, 2)
    submission = stack.submit(configure(stack, "killed", training__rounds=10))
    wait_for_round(stack, "killed", 2)
    process_of(stack, SERVERAPP).kill()
    wait_for_round(stack, "killed", 4)
    process_of(stack, SERVERAPP).send_signal(signal.SIGTERM)
    wait_for_round(stack, "killed", 6)
    process_of(stack, SUPEREXEC).kill()  # the ServerApp ends with it
    wait_for_round(stack, "killed", 8)
    assert stack.superlink is not None
    stack.kill(stack.superlink)  # the machine
    time.sleep(OFF_S)
    stack.start_server()
    concluded(stack, "killed", submission, 10)
    assert not list((stack.runs / ".serverapps").glob("*"))


def test_a_run_that_is_stopped_stays_stopped(make_stack: MakeStack, configure: Configure) -> None:
    stack = served(make_stack, 2)
    submission = stack.submit(configure(stack, "stopped", training__rounds=100))
    wait_for_round(stack, "stopped", 1)
    at_work = process_of(stack, SERVERAPP)
    submission.stop()
    stack.wait_for(lambda: not list((stack.runs / ".serverapps").glob("*")), "the ServerApp to end", 60.0)
    done = rounds_done(stack, "stopped")
    time.sleep(10)
    assert submission.status()[0] == "finished:stopped" and rounds_done(stack, "stopped") == done
    assert not at_work.is_running()


def test_the_submitting_command_is_killed_and_finds_its_run_again(make_stack: MakeStack, tmp_path: Path) -> None:
    stack = served(make_stack, 2)
    mine = tmp_path / "operator"
    command = [str(PROGRAMS / "hypergpu"), "run", "--superlink", "deployed", "--name", "mine", "--runs", str(mine)]
    for setting in ("training.rounds=30", "training.num_nodes=2", "network.cohort=2"):
        command += ["--set", setting]
    first = stack.start("operator", command)
    wait_for_round(stack, "mine", 2)
    stack.wait_for(lambda: "-> where the SuperLink 'deployed' runs" in stack.log("operator"), "the start line", 60.0)
    assert "2 nodes, 30 rounds -> where" in stack.log("operator")
    for words in (["watch", "mine", "--once"], ["watch", str(mine / "mine"), "--once"]):
        code, said = asked(stack, *words, "--runs", str(mine))
        assert (
            code == 0
            and "was sent to the SuperLink 'deployed'" in said
            and f"or `hypergpu attach {(mine / 'mine').resolve()}`" in said
        )
    stack.kill(first)
    assert stack.superlink is not None
    stack.kill(stack.superlink)
    second = stack.start("attached", [str(PROGRAMS / "hypergpu"), "attach", "mine", "--runs", str(mine)])
    stack.wait_for(lambda: "goes on asking" in stack.log("attached"), "the command to wait", 120.0)
    stack.start_server()
    assert second.wait(timeout=600) == 0, stack.log("attached")
    said = stack.log("attached")
    assert "answers again" in said
    assert len([line for line in said.splitlines() if "round  30/30" in line]) == 1
    assert "files" in said and "where the SuperLink runs" in said
    for words in (["report", "mine"], ["nodes", "mine"], ["export", "mine"], ["ledger", "show", "mine"]):
        code, told = asked(stack, *words, "--runs", str(mine))
        assert code == 2 and f"its books do not lie in {mine / 'mine'}" in told and "HYPERGPU_RUNS" in told
        assert asked(stack, *words, "--runs", str(stack.runs))[0] == 0, "where they do lie"
    code, told = asked(stack, "run", "--resume", "mine", "--runs", str(mine))
    assert code == 2 and f"hypergpu run --superlink deployed --resume {(mine / 'mine').resolve()}" in told
    code, told = asked(stack, "attach", "12345", "--runs", str(mine))
    assert code == 2 and "of which SuperLink?" in told and "--superlink" in told


def asked(stack: Stack, *words: str) -> tuple[int, str]:
    """Exit code of a command, and all that it said."""
    done = subprocess.run(
        [PROGRAMS / "hypergpu", *words],
        env=stack.environ,
        cwd=stack.folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_no_other_user_of_the_machine_gets_a_task_of_a_node_or_of_the_server(tmp_path: Path) -> None:
    with Stack(tmp_path, [LINK], namespaces=False) as stack:  # in a namespace a node's port is nobody else's anyway
        served(lambda shapes: stack, 1)
        stack.wait_for(lambda: "SuperNode ID" in stack.log("node-0"), "the node", 60.0)
        authority = (stack.folder / "keys" / "ca.crt").read_bytes()
        node = stack.nodes[0]
        assert node.process is not None
        port = int(node.process.args[node.process.args.index("--port") + 1])
        for address, root, kind in (
            (f"127.0.0.1:{stack.port}", authority, TaskType.SERVER_APP),
            (f"127.0.0.1:{port}", None, TaskType.CLIENT_APP),
        ):
            stranger = RuntimeHttpClient.from_server_address(
                address, root is None, root, [RuntimeVersionHttpInterceptor(component_name="SuperExec")]
            )
            with closing(stranger), pytest.raises(httpx.HTTPStatusError) as refusal:
                stranger.AcquireTask(AcquireTaskRequest(supported_task_types=[kind]))
            assert refusal.value.response.status_code in (401, 403)
