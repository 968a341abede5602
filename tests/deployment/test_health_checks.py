"""The health checks of images and compose files, word for word: of what answers, of what is dead and of what hangs."""

from __future__ import annotations

import datetime
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from hypergpu_fl.network.certificates import write_certificates, write_node_key
from tests.deployment.composing import read
from tests.deployment.images import ours
from tests.deployment.stack import PROGRAMS, REPOSITORY, below, write_keystore

pytestmark = [pytest.mark.deployment, pytest.mark.slow]

START_LIMIT_S = 90.0
LIMIT_S = 30.0  # of a check; an engine would give it 10, on a machine that does nothing else
SERVER = read(REPOSITORY / "deploy" / "compose" / "server.yaml", {})["services"]
NODE = read(REPOSITORY / "deploy" / "compose" / "node.yaml", {"SUPERLINK": "localhost:1", "PARTITION": "0"})["services"]
CHECKS = {
    "superlink": tuple(SERVER["superlink"]["healthcheck"]["test"][1:]),
    "superexec": ours("server").health,
    "node": tuple(NODE["node"]["healthcheck"]["test"][1:]),
}
STARTED = {
    "superlink": ["flower-superlink", *SERVER["superlink"]["command"]],
    "superexec": [*SERVER["superexec"]["entrypoint"], *SERVER["superexec"]["command"]],
    "node": [*NODE["node"]["entrypoint"], *NODE["node"]["command"]],
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Stands for every folder that a container would have."""
    keys = tmp_path / "keys"
    write_certificates(keys, [], now=datetime.datetime.now(datetime.UTC))
    write_node_key(keys, "node")
    write_keystore(keys / "keystore.json", 0)
    (keys / "superexec.secret").write_text("secret")
    return tmp_path


def here(words: tuple[str, ...] | list[str], home: Path) -> list[str]:
    """A form's command with the folders of this machine, and nothing else changed."""
    places = {"/run/keys": str(home / "keys"), "/var/lib/hypergpu": str(home), "superlink:8000": "127.0.0.1:8000"}
    found = list(words)
    for theirs, mine in places.items():
        found = [word.replace(theirs, mine) for word in found]
    return found


def environ(home: Path) -> dict[str, str]:
    """Environment variables of a container."""
    path = os.pathsep.join([str(PROGRAMS), "/usr/bin", "/bin"])
    return {"PATH": path, "PYTHONPATH": str(REPOSITORY), "HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0"} | {
        "HYPERGPU_RUNS": str(home / "runs"),
        "HYPERGPU_KEYSTORE_PASSWORD": "only-for-tests",
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture(params=CHECKS)
def started(request: pytest.FixtureRequest, home: Path, alone: list[str]) -> Iterator[tuple[str, psutil.Process]]:
    """A part of a deployment, and its first process."""
    name = request.param
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [*alone, *here(STARTED[name], home)],
            env=environ(home),
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield name, psutil.Process(process.pid)
    finally:
        for one in below(process):
            one.kill()
        process.kill()
        process.wait()


def healthy(name: str, home: Path, alone: list[str]) -> bool:
    """What the check says; an engine takes one that does not end for no."""
    try:
        done = subprocess.run(
            [*alone, *here(CHECKS[name], home)], env=environ(home), capture_output=True, timeout=LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def test_a_check_passes_what_answers_and_neither_what_hangs_nor_what_is_dead(
    started: tuple[str, psutil.Process], home: Path, alone: list[str]
) -> None:
    name, process = started
    until_s = time.monotonic() + START_LIMIT_S
    while not healthy(name, home, alone):
        assert time.monotonic() < until_s and process.is_running(), (home / "log").read_text()
    everything = [process, *process.children(recursive=True)]
    for one in everything:
        one.send_signal(signal.SIGSTOP)
    assert not healthy(name, home, alone)
    for one in everything:
        one.send_signal(signal.SIGCONT)
    assert healthy(name, home, alone)
    for one in everything:
        one.kill()
    psutil.wait_procs(everything, timeout=10)
    assert not healthy(name, home, alone)
