"""A node that is told to end, as by a service manager or before its machine goes, costs the run and itself nothing."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import psutil
import pytest

from hypergpu_fl.config import Config
from tests.deployment.conftest import MakeStack
from tests.deployment.stack import Stack, below
from tests.deployment.test_faults import LINK, concluded, registry, wait_for_round

pytestmark = [pytest.mark.deployment, pytest.mark.slow]

Configure = Callable[..., Config]
ENDED_S = 60.0
ORPHANS_S = 2.0


def at_work(stack: Stack, index: int) -> bool:
    """Whether a node has received work that it has not answered."""
    log = stack.log(f"node-{index}")
    return log.rfind("Receiving: train message") > log.rfind("Sending: train message")


def told_to_end_at_work(stack: Stack, index: int) -> float:
    """Tell a node in the midst of its work to end; how long it and all its processes took, in seconds."""
    node = stack.nodes[index].process
    assert node is not None
    stack.wait_for(lambda: at_work(stack, index), "the node to be at work", 240.0)
    time.sleep(0.5)
    processes = below(node)
    assert len(processes) > 2  # SuperExec, worker
    began_s = time.monotonic()
    for process in processes:  # as systemd does: all of a service's
        process.send_signal(signal.SIGTERM)
    assert node.wait(timeout=ENDED_S) == 0
    took_s = time.monotonic() - began_s
    stack.wait_for(lambda: not any(map(alive, processes)), "its processes to end with it", ORPHANS_S)
    return took_s


def alive(process: psutil.Process) -> bool:
    """Whether a process does anything still; what has ended may wait for ever for an init to take note of it."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("drain_s", [40.0, 0.2])
def test_a_node_told_to_end_in_a_round_loses_nothing_and_is_back_in_the_next(
    make_stack: MakeStack, configure: Configure, capsys: pytest.CaptureFixture[str], drain_s: float
) -> None:
    stack = make_stack([LINK] * 3)
    stack.start_superlink()
    stack.register()
    for index in range(3):
        stack.start_node(index, options=("--drain-s", str(drain_s)))
    settings = {"training__model_architecture": "resnet18", "training__batch_size": 64, "training__rounds": 6}
    submission = stack.submit(configure(stack, "leaving", network__quota=0.6, **settings))
    wait_for_round(stack, "leaving", 1)
    took_s = told_to_end_at_work(stack, 1)
    assert took_s < drain_s + 20.0
    finished = "Sending: train message" in stack.log("node-1").rpartition("this node leaves")[2]
    assert finished and "Sent successfully" in stack.log("node-1").rpartition("this node leaves")[2]
    stack.start_node(1)
    stack.wait_for(lambda: at_work(stack, 1), "the node to be given work again", 120.0)
    concluded(stack, "leaving", submission, 6)
    node = registry(stack, "leaving", capsys)["node-1"]
    assert node["success_rate"] == 1.0 and not node["last_failure"]
