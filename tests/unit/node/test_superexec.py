"""What a SuperNode of ours does otherwise than Flower's: it forks, and it looks sooner."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from flwr.supernode import start_client_internal
from hypothesis import given
from hypothesis import strategies as st

from hypergpu_fl.cli import invoke
from hypergpu_fl.errors import UsageError
from hypergpu_fl.node.supernode import LEAST_S, SHARE, GrowingWait
from hypergpu_fl.superexec_secret import OPTION, given_secret

# In a process of its own: forking this one, which has threads, would not be safe.
FORKING = """
import os, sys
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 0
from hypergpu_fl.node.superexec import fork_worker, preload
from hypergpu_fl.node.worker import ask
preload()
assert {"torch", "numba", "eth_account"} <= set(sys.modules)
worker = fork_worker(1)
context = Context(run_id=1, node_id=7, node_config={}, state=RecordDict(), run_config={})
message = Message(RecordDict({"order": ConfigRecord({"payload": b"x"})}), 7, "train")
message.metadata.__dict__["_message_id"] = "12"
sys.path.insert(0, sys.argv[1])
reply = ask("hypergpu_fl.planted:app", message, context, owner=os.getpid())
assert reply.content.config_records["answer"]["process"] == worker
print("answered")
"""


def test_a_forked_worker_answers_with_the_runs_app_and_not_with_what_is_installed(tmp_path: Path) -> None:
    package = tmp_path / "app" / "hypergpu_fl"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "planted.py").write_text((Path(__file__).with_name("worker_app.py")).read_text())
    command = [sys.executable, "-c", FORKING, str(package.parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == "answered\n", done.stderr


@pytest.mark.parametrize("option", ["--isolation=subprocess", "--ssl-certfile"])
def test_options_that_would_part_the_two_processes_are_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["node", "start", "--superlink", "127.0.0.1:1", option, "x"]) == 2
    assert option.partition("=")[0] in capsys.readouterr().err


class Time:
    """A clock that sleeping moves on."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now_s += seconds


@given(st.floats(0.01, 5), st.floats(0, 1000))
def test_a_wait_is_a_share_of_the_waiting_and_never_longer_than_asked(asked_s: float, until_s: float) -> None:
    time = Time()
    wait = GrowingWait(lambda: time.now_s, time.sleep)
    while time.now_s <= until_s:
        before_s = time.now_s
        wait.sleep(asked_s)
        took_s = time.now_s - before_s
        assert took_s == pytest.approx(min(asked_s, max(LEAST_S, SHARE * before_s)), rel=1e-6)


def test_another_wait_begins_anew() -> None:
    time = Time()
    wait = GrowingWait(lambda: time.now_s, time.sleep)
    for _ in range(40):
        wait.sleep(3.0)
    for asked_s in (0.5, 3.0):
        before_s = time.now_s
        wait.sleep(asked_s)
        assert time.now_s - before_s == pytest.approx(LEAST_S)


def test_flowers_supernode_uses_its_clock_for_waiting_alone() -> None:
    used = re.findall(r"\btime\.(\w+)", inspect.getsource(start_client_internal))
    assert used and set(used) == {"sleep"}


@pytest.mark.parametrize("form", ["{0} {1}", "{0}={1}"])
def test_a_secret_of_ones_own_is_passed_on_and_one_that_cannot_be_read_is_refused(tmp_path: Path, form: str) -> None:
    file = tmp_path / "secret"
    file.write_bytes(b"of one's own\n")
    assert given_secret(form.format(OPTION, file).split()) == b"of one's own\n"
    assert given_secret(["--superlink", "127.0.0.1:1"]) is None
    with pytest.raises(UsageError, match="that this user can read|Failed to read"):
        given_secret(form.format(OPTION, tmp_path / "none").split())
