"""What a ServerApp says of its end to a SuperLink that is away for a while."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

# As Flower's own process does it, see flwr.superlink.runtime.run_serverapp.
ENDS = """
import sys, time
from flwr.supercore.heartbeat import make_task_heartbeat_fn_http
from hypergpu_fl.server import ending
from strategies.flower_internals import HttpGrid, PushTaskOutputRequest, SubStatus
ending.LEFT_OVER_S = 0.2
grid = HttpGrid(runtime_api_address=sys.argv[1], insecure=True, token="token")
beat = make_task_heartbeat_fn_http(grid._runtime_client)
ending.until_heard(grid)
grid._retry_invoker.max_tries = 1
assert not beat()
grid._runtime_client.PushTaskOutput(PushTaskOutputRequest(sub_status=getattr(SubStatus, sys.argv[2])))
time.sleep(60)
"""


class SuperLink(ThreadingHTTPServer):
    """Answers no heartbeat, and a ServerApp's end only when it is told the third time."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.heard: list[int] = []


class Answer(BaseHTTPRequestHandler):
    """Its answer to one request."""

    server: SuperLink

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        code = 500
        if self.path.endswith("push-task-output"):
            code = 503 if len(self.server.heard) < 2 else 200
            self.server.heard.append(code)
        self.send_response(code)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def superlink() -> Iterator[SuperLink]:
    with SuperLink() as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize(("status", "code"), [("COMPLETED", 0), ("FAILED", 1)])
def test_an_end_is_told_until_it_is_heard_and_a_failed_heartbeat_ends_nothing(
    status: str, code: int, superlink: SuperLink
) -> None:
    address = f"127.0.0.1:{superlink.server_address[1]}"
    ended = subprocess.run([sys.executable, "-c", ENDS, address, status], capture_output=True, text=True, timeout=50)
    assert superlink.heard == [503, 503, 200], ended.stderr
    assert ended.returncode == code, ended.stderr
