"""Workers stay between messages, and end with their owner, when idle, or when they must."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from hypergpu_fl.errors import WorkerFailed
from hypergpu_fl.node.worker import IDLE_S, ask

APP = "tests.unit.node.worker_app:app"
LIMIT_S = 30.0


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Temporary folder of the system, as far as the test is concerned."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name, value in (("_run_id", 1), ("_node_id", 0), ("_task_id", 0)):
        monkeypatch.setattr(TaskIdentity, name, value)
    return tmp_path


@pytest.fixture
def owner() -> Iterator[subprocess.Popen[bytes]]:
    """A process for workers to belong to."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def context_of(run: int = 1, **node_config: str) -> Context:
    return Context(run_id=run, node_id=7, node_config=dict(node_config), state=RecordDict(), run_config={})


def order(payload: bytes = b"") -> Message:
    message = Message(RecordDict({"order": ConfigRecord({"payload": payload})}), 7, "train")
    message.metadata.__dict__["_message_id"] = "12"
    return message


def answer(owner: subprocess.Popen[bytes], context: Context, payload: bytes = b"", idle_s: float = IDLE_S) -> Any:
    reply = ask(APP, order(payload), context, owner=owner.pid, idle_s=idle_s)
    assert reply.metadata.reply_to_message_id == "12"
    return reply.content.config_records["answer"]


def ended(process: int) -> bool:
    """Whether a process ends in time."""
    until_s = time.monotonic() + LIMIT_S
    while time.monotonic() < until_s:
        if not psutil.pid_exists(process) or psutil.Process(process).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def test_one_process_answers_all_messages_of_a_run_and_keeps_the_nodes_memory(
    owner: subprocess.Popen[bytes],
) -> None:
    context = context_of()
    payload = os.urandom(3_000_000)
    answers = [answer(owner, context, payload) for _ in range(3)]
    assert [each["count"] for each in answers] == [1, 2, 3]
    assert {each["process"] for each in answers} == {answers[0]["process"]} != {os.getpid()}
    assert all(each["sent"] == payload for each in answers)
    assert answer(owner, context_of(run=2))["process"] != answers[0]["process"]


def test_messages_at_the_same_time_start_one_worker(owner: subprocess.Popen[bytes]) -> None:
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: answer(owner, context_of()), range(4)))
    assert len({each["process"] for each in answers}) == 1


def test_a_worker_ends_with_its_owner(owner: subprocess.Popen[bytes]) -> None:
    process = answer(owner, context_of())["process"]
    assert psutil.pid_exists(process)
    owner.kill()
    assert ended(process)


def test_an_idle_worker_ends_leaves_nothing_and_is_replaced(owner: subprocess.Popen[bytes], folder: Path) -> None:
    process = answer(owner, context_of(), idle_s=0.2)["process"]
    assert ended(process)
    assert [path for path in folder.rglob("*") if not path.is_dir()] == []
    assert answer(owner, context_of())["process"] != process


def test_what_the_app_raises_is_told_and_the_worker_stays(owner: subprocess.Popen[bytes]) -> None:
    process = answer(owner, context_of())["process"]
    with pytest.raises(WorkerFailed, match="ValueError: no such share"):
        answer(owner, context_of(wish="raise"))
    assert answer(owner, context_of())["process"] == process


def test_a_worker_that_dies_costs_one_message(owner: subprocess.Popen[bytes]) -> None:
    process = answer(owner, context_of())["process"]
    with pytest.raises(WorkerFailed, match="ended before it had answered"):
        answer(owner, context_of(wish="die"))
    assert answer(owner, context_of())["process"] != process


def test_a_socket_left_by_the_dead_is_replaced(owner: subprocess.Popen[bytes], folder: Path) -> None:
    process = answer(owner, context_of())["process"]
    psutil.Process(process).kill()
    assert ended(process)
    assert [path for path in folder.rglob("*") if not path.is_dir()] != []
    assert answer(owner, context_of())["count"] == 1


def test_a_folder_that_others_may_enter_is_refused(owner: subprocess.Popen[bytes], folder: Path) -> None:
    (folder / f"hypergpu-{os.getuid()}").mkdir(mode=0o777)
    (folder / f"hypergpu-{os.getuid()}").chmod(0o777)
    with pytest.raises(PermissionError, match="open to others"):
        answer(owner, context_of())
