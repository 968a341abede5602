"""A ServerApp's process that takes the place of one that died."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from away_superlink import AwaySuperLink

from hypergpu_fl.server.superexec import input_of
from strategies.flower_internals import PullTaskInputResponse, SendTaskHeartbeatResponse

# Asks for its input and says how it ended, as Flower's own process does.
SERVES = """
import sys
from pathlib import Path
from hypergpu_fl.server.serverapp_process import take_the_place
from strategies.flower_internals import HttpGrid, PullTaskInputRequest, PushTaskOutputRequest, SubStatus
take_the_place(Path(sys.argv[2]))
client = HttpGrid(runtime_api_address=sys.argv[1], insecure=True, token="token")._runtime_client
print(client.PullTaskInput(PullTaskInputRequest()).task_id)
client.PushTaskOutput(PushTaskOutputRequest(sub_status=getattr(SubStatus, sys.argv[3]), details=sys.argv[4]))
"""
KILLED = ("FAILED", "Task failed with unknown error.")


def serve(superlink: AwaySuperLink, file: Path, status: str, details: str) -> int:
    """The number of the task that a process served."""
    arguments = [sys.executable, "-c", SERVES, superlink.address, str(file), status, details]
    served = subprocess.run(arguments, capture_output=True, text=True, timeout=50)
    assert served.returncode == 0, served.stderr
    return int(served.stdout)


@pytest.mark.parametrize("awaited", [True, False])
def test_the_next_process_has_the_input_of_the_one_that_was_killed_if_it_is_still_awaited(
    tmp_path: Path, awaited: bool
) -> None:
    file = tmp_path / "start.json"
    file.write_text("{}")

    def answer(name: str, times: int) -> tuple[int, bytes]:
        if name == "pull-task-input":
            return 200, PullTaskInputResponse(task_id=6 + times).SerializeToString()
        return 200, SendTaskHeartbeatResponse(success=awaited).SerializeToString()

    with AwaySuperLink(answer) as superlink:
        assert serve(superlink, file, *KILLED) == 7
        assert superlink.heard == ["pull-task-input", "send-task-heartbeat"]  # nobody is told that it failed
        assert file.exists() == input_of(file).exists() == awaited
        assert serve(superlink, file, "COMPLETED", "") == (7 if awaited else 8)
        assert superlink.heard[-1] == "push-task-output"
        assert not file.exists() and not input_of(file).exists()
