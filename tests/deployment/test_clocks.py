"""A node's clock that jumps costs the node its place until it is right again, and the run nothing."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hypergpu_fl.cli import invoke
from hypergpu_fl.config import Config
from strategies.event_log import FILE
from tests.deployment.conftest import MakeStack
from tests.deployment.relay import Shape
from tests.deployment.stack import Stack

pytestmark = [pytest.mark.deployment, pytest.mark.slow]

MACHINE = Path(__file__).with_name("shifted_clock")
NODES, JUMPS, HOUR_S, LIMIT_S = 3, 2, 3600, 300.0
ROUNDS = 1000  # more than there is time for
Configure = Callable[..., Config]


def node_of(stack: Stack, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The node with the odd clock, as ``hypergpu nodes`` shows it."""
    capsys.readouterr()
    assert invoke(["nodes", "clocks", "--runs", str(stack.runs), "--format", "json"]) == 0
    found: dict[str, Any] = {node["node"]: node for node in json.loads(capsys.readouterr().out)}[f"node-{JUMPS}"]
    return found


def rounds_begun(stack: Stack) -> int:
    """Rounds that the run's log tells of so far."""
    log = stack.runs / "clocks" / FILE
    return log.read_text().count('"round due"') if log.is_file() else 0


def ended(stack: Stack) -> bool:
    """Whether the node with the odd clock has left."""
    process = stack.nodes[JUMPS].process
    return process is not None and process.poll() is not None


def told(stack: Stack, which: str) -> float:
    """By how many seconds the node says that its clock is ``which``, or -1 if it does not."""
    found = re.findall(rf"its clock is (\d+) s {which} the SuperLink's; let NTP set it", stack.log(f"node-{JUMPS}"))
    return float(found[-1]) if found else -1.0


def test_a_clock_that_jumps_an_hour_is_named_to_its_node_which_works_again_when_it_is_right(
    make_stack: MakeStack, configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    stack = make_stack([Shape(50e6, 50e6, 0.01)] * NODES)
    clock = stack.folder / "clock"
    odd = {"PYTHONPATH": f"{MACHINE}:{stack.environ.get('PYTHONPATH', '')}", "CLOCK_FILE": str(clock)}
    stack.start_superlink()
    stack.register()
    for index in range(NODES):
        stack.start_node(index, environ=odd if index == JUMPS else None)
    stack.submit(configure(stack, "clocks", training__rounds=ROUNDS, network__quota=0.6))
    stack.wait_for(lambda: rounds_begun(stack) > 3, "three rounds", LIMIT_S)

    clock.write_text(str(HOUR_S))
    stack.wait_for(lambda: ended(stack), "the node to leave", LIMIT_S)
    assert told(stack, "ahead of") == pytest.approx(HOUR_S, abs=60)
    before = rounds_begun(stack)
    stack.wait_for(lambda: rounds_begun(stack) > before + 1, "the run to go on", LIMIT_S)

    clock.write_text(str(-HOUR_S))
    stack.start_node(JUMPS, environ=odd)
    stack.wait_for(lambda: ended(stack), "the node to leave again", LIMIT_S)
    assert told(stack, "behind") == pytest.approx(HOUR_S, abs=60)

    clock.write_text("0")
    away = node_of(stack, capsys)
    set_right_s = time.monotonic()
    while (found := node_of(stack, capsys))["last_seen"] == away["last_seen"]:
        if ended(stack):  # refused for up to a minute, as what starts it again finds
            stack.start_node(JUMPS, environ=odd)
        assert time.monotonic() - set_right_s < LIMIT_S, stack.log(f"node-{JUMPS}")[-2000:]
        time.sleep(2)
    assert found["success_rate"] == away["success_rate"], found
