"""Who is let in, and what is told to those who are not."""

from __future__ import annotations

import datetime
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from hypergpu_fl.network.certificates import write_certificates, write_node_key
from tests.deployment.relay import Shape
from tests.deployment.stack import Stack

pytestmark = pytest.mark.deployment  # nothing is timed here

LIMIT_S = 90.0


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A SuperLink that knows one of two nodes."""
    with Stack(tmp_path_factory.mktemp("security"), [Shape(), Shape()], namespaces=False) as stack:
        stack.start_superlink()
        stack.register(0)
        yield stack


def refused(stack: Stack, index: int, words: str, **how: str) -> None:
    """A node that is started in this way ends, or keeps out, with these words in its log."""
    log = f"node-{index}"
    (stack.folder / f"{log}.log").unlink(missing_ok=True)
    node = stack.start_node(index, **how)
    assert node.process is not None
    try:
        stack.wait_for(lambda: words in stack.log(log), f"{words!r} from {log}", LIMIT_S)
        assert "SuperNode ID" not in stack.log(log)
    finally:
        stack.kill(node.process)


def test_a_registered_key_is_let_in_and_a_second_node_with_it_is_not(stack: Stack) -> None:
    first = stack.start_node(0)
    assert first.process is not None
    try:
        stack.wait_for(lambda: "SuperNode ID" in stack.log("node-0"), "the node to be let in", LIMIT_S)
        refused(stack, 1, "[code: 2004]", key="node-0")
    finally:
        stack.kill(first.process)


def test_a_key_that_was_never_registered_is_refused(stack: Stack) -> None:
    refused(stack, 1, "[code: 2004]")


def test_a_stolen_public_key_is_worth_nothing_without_its_private_half(stack: Stack) -> None:
    keys = stack.folder / "keys"
    write_node_key(keys, "thief")
    shutil.copy(keys / "node-0.pub", keys / "thief.pub")
    refused(stack, 1, "[code: 2004]", key="thief")


def test_an_expired_certificate_keeps_nodes_away(tmp_path: Path) -> None:
    with Stack(tmp_path, [Shape()], namespaces=False) as stack:
        past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=3)
        write_certificates(tmp_path / "keys", [], now=past, days=2)
        stack.start_superlink(wait=False)
        stack.start_node(0)
        # the SuperLink's own executor meets the certificate first and takes the SuperLink down with it
        stack.wait_for(lambda: "certificate has expired" in stack.log("superlink"), "the reason", LIMIT_S)
        assert "SuperNode ID" not in stack.log("node-0")


def test_a_node_whose_clock_is_off_by_an_hour_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import datetime, flwr.supercore.date as date\n"
        "real = date.now\n"
        "date.now = lambda: real() - datetime.timedelta(hours=1)\n"
    )
    with Stack(tmp_path, [Shape()], namespaces=False) as stack:
        stack.start_superlink()
        stack.register()
        path = os.pathsep.join([str(tmp_path), stack.environ.get("PYTHONPATH", "")])
        stack.start_node(0, environ={"PYTHONPATH": path})
        # Flower's SuperNode only says that it retries; the reason is in the SuperLink's log
        stack.wait_for(lambda: '/v1/fleet/activate-node HTTP/1.1" 401' in stack.log("superlink"), "a 401", LIMIT_S)
        assert "SuperNode ID" not in stack.log("node-0")
