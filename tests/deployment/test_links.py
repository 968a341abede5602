"""Four nodes behind unequal links: what the registry finds, what the plans send, and what the books say."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from hypergpu_fl.cli import invoke
from hypergpu_fl.codec.payload import COMPRESSIONS
from hypergpu_fl.config import Config
from strategies.fleet import Fleet
from strategies.fleet.link import LinkSample
from strategies.planning import Workload, plan
from tests.deployment.conftest import MakeStack
from tests.deployment.relay import Shape
from tests.deployment.stack import Stack

pytestmark = [pytest.mark.deployment, pytest.mark.timed]

LINKS = [Shape(2e6, 8e6, 0.2), Shape(10e6, 20e6, 0.1), Shape(30e6, 50e6, 0.05), Shape(100e6, 100e6, 0.02)]


ATTEMPTS = 3  # a core that others take for 50 ms halves what a probe of 80 ms finds


def test_unequal_links_are_measured_planned_for_and_the_rounds_verified(
    make_stack: MakeStack, configure: Callable[..., Config], namespaces: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    stack = make_stack(LINKS)
    stack.start_superlink()
    stack.register()
    for index in range(len(LINKS)):
        stack.start_node(index)
    for attempt in range(ATTEMPTS):
        run = f"links-{attempt}"
        trained_and_sealed(stack, configure, run)
        nodes = registry_of(stack, run, capsys)
        assert [node["success_rate"] for node in nodes] == [1.0] * 4
        if not (wrong := badly_measured(nodes, uplink=namespaces)):  # a relay's own cost limits the fastest
            break
    assert not wrong
    slowest, *_, fastest = bytes_planned(nodes, model_bytes=45_000_000)  # the digits' model is sent whole by all
    assert fastest >= 10 * slowest


def trained_and_sealed(stack: Stack, configure: Callable[..., Config], run: str) -> None:
    """Three rounds that learn, are final on the chain, and verify."""
    quick = {"training__learning_rate": 0.2, "training__momentum": 0.9}  # a round is mostly the start of Pythons
    submission = stack.submit(configure(stack, run, training__rounds=3, **quick))
    status, details = stack.wait(submission, limit_s=900)
    assert status == "finished:completed", f"{status}: {details}\n{submission.log()[-3000:]}"
    report = json.loads((stack.runs / run / "report.json").read_text())
    assert report["clock"] == "wall"
    assert report["accuracy"] >= 0.9
    assert len(report["history"]) == 3
    assert all(entry["status"] == "FINALIZED" for entry in report["history"])
    assert invoke(["ledger", "verify", run, "--runs", str(stack.runs)]) == 0


def badly_measured(nodes: Sequence[dict[str, float]], *, uplink: bool) -> list[dict[str, float]]:
    """Nodes whose round trip is off by more than 15 % and 3 ms, or whose uplink by more than a fifth."""
    return [
        node
        for node, shape in zip(nodes, LINKS, strict=True)
        if node["rtt_ms"] / 1e3 != pytest.approx(shape.delay_s, rel=0.15, abs=0.003)
        or (uplink and node["up_mbps"] * 1e6 != pytest.approx(shape.uplink_bps, rel=0.2))
    ]


def bytes_planned(nodes: Sequence[dict[str, float]], *, model_bytes: int) -> list[float]:
    """Bytes of each node's update, as planned over the round trips and uplinks that were measured.

    Downlinks are the true ones: how fast a busy server's answers come is not under test.
    """
    fleet = Fleet()
    for node, shape in zip(nodes, LINKS, strict=True):
        row = fleet.enrol(str(node["node"]), examples=360, sample_s=2e-3)
        fleet.overhead_s[row] = 10.0
        measured = {"rtt_s": node["rtt_ms"] / 1e3, "uplink_bps": node["up_mbps"] * 1e6}
        fleet.observe(row, LinkSample(**measured, downlink_bps=shape.downlink_bps))
    planned = plan(fleet, Workload(np.full(len(nodes), 12), 32, model_bytes), COMPRESSIONS)
    return [model_bytes / COMPRESSIONS[level].expected_ratio for level in planned.level]


def registry_of(stack: Stack, run: str, capsys: pytest.CaptureFixture[str]) -> list[dict[str, float]]:
    """What ``hypergpu nodes`` tells."""
    capsys.readouterr()
    assert invoke(["nodes", run, "--runs", str(stack.runs), "--format", "json"]) == 0
    nodes: list[dict[str, float]] = json.loads(capsys.readouterr().out)
    return nodes
