"""What a SuperNode makes of connections that break off, and of a server that it must not trust."""

from __future__ import annotations

import contextlib
import datetime
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from hypergpu_fl.network.certificates import write_certificates
from tests.deployment.conftest import MakeStack
from tests.deployment.relay import Shape
from tests.deployment.stack import Stack

pytestmark = [pytest.mark.deployment, pytest.mark.slow]

LINK = Shape(50e6, 50e6, 0.01)


def up(make_stack: MakeStack) -> Stack:
    """A SuperLink with a node."""
    stack = make_stack([LINK])
    stack.start_superlink("--database", str(stack.folder / "superlink.db"))
    stack.register()
    stack.start_node(0)
    stack.wait_for(lambda: "SuperNode ID" in stack.log("node-0"), "the node", 90)
    return stack


@contextlib.contextmanager
def breaking_off(port: int) -> Iterator[list[int]]:
    """Where the SuperLink was: every connection is taken and closed."""
    taken: list[int] = []
    with socket.create_server(("", port)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    one, _ = listener.accept()
                    with one, contextlib.suppress(OSError):
                        one.recv(4096)
                    taken.append(1)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield taken
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_node_outlives_handshakes_that_break_off(make_stack: MakeStack) -> None:
    stack = up(make_stack)
    assert stack.superlink is not None
    stack.kill(stack.superlink)
    with breaking_off(stack.port) as taken:
        stack.wait_for(lambda: len(taken) > 3, "the node to come back", 60)
    stack.start_superlink("--database", str(stack.folder / "superlink.db"))
    stack.wait_for(lambda: "Connection successful after" in stack.log("node-0"), "the node to go on", 90)


def test_a_node_that_gives_up_ends_so_that_it_is_started_again(make_stack: MakeStack) -> None:
    stack = up(make_stack)
    assert stack.superlink is not None
    stack.kill(stack.superlink)
    for name in ("ca.key", "ca.crt"):
        (stack.folder / "keys" / name).unlink()
    write_certificates(stack.folder / "keys", [], now=datetime.datetime.now(datetime.UTC))  # another authority's
    stack.start_superlink("--database", str(stack.folder / "superlink.db"))
    node = stack.nodes[0].process
    assert node is not None
    began_s = time.monotonic()
    assert node.wait(timeout=90) == 1, stack.log("node-0")
    print(f"ended after {time.monotonic() - began_s:.0f} s")
    assert "certificate verify failed" in stack.log("node-0").lower()
