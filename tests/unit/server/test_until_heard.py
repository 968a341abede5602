"""What a ServerApp says of its end to a SuperLink that is away for a while."""

from __future__ import annotations

import subprocess
import sys

import pytest
from away_superlink import AwaySuperLink

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


def answer(name: str, times: int) -> tuple[int, bytes]:
    """No heartbeat succeeds, and an end is heard only when it is told the third time."""
    if name == "push-task-output":
        return (503 if times < 3 else 200), b""
    return 500, b""


@pytest.mark.parametrize(("status", "code"), [("COMPLETED", 0), ("FAILED", 1)])
def test_an_end_is_told_until_it_is_heard_and_a_failed_heartbeat_ends_nothing(status: str, code: int) -> None:
    with AwaySuperLink(answer) as superlink:
        ended = subprocess.run(
            [sys.executable, "-c", ENDS, superlink.address, status], capture_output=True, text=True, timeout=50
        )
    assert superlink.heard == ["send-task-heartbeat", *["push-task-output"] * 3], ended.stderr
    assert ended.returncode == code, ended.stderr
