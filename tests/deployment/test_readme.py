"""The README's commands, by people who share neither user nor home nor folder."""

from __future__ import annotations

import contextlib
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

from tests.deployment.people import Person, busy, deployed, people, readme
from tests.deployment.stack import REPOSITORY

pytestmark = [pytest.mark.deployment, pytest.mark.slow]

RUNS = 5
MOST_IMPORTS = 6.0  # from the command to the first round, in times of importing torch
TRAINING = """
[training]
num_nodes = 2
rounds = 3
[network]
cohort = 2
"""


def torch_s() -> float:
    """What importing torch takes a new process here and now."""
    began_s = time.monotonic()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    return time.monotonic() - began_s


def first_round_s(person: Person, command: str) -> float:
    """How long after its start a run's command tells of the first round; the run must end well."""
    before, began_s = len(person.output), time.monotonic()
    process = person.start(command)
    took_s = None
    while process.poll() is None:
        if took_s is None and "round   1/3" in person.output[before:]:
            took_s = time.monotonic() - began_s
        time.sleep(0.05)
    said = person.output[before:]
    assert process.returncode == 0 and took_s is not None, said[-4000:]
    return took_s


@pytest.fixture
def everybody() -> Iterator[tuple[Person, Person, Person, Person]]:
    with people("server", "site-a", "site-b", "operator") as (server, first, second, operator):
        yield server, first, second, operator


@pytest.mark.parametrize("load", [0, 2])
def test_five_runs_in_a_row_end_well_and_begin_soon(
    everybody: tuple[Person, ...], load: int, record_property: pytest.RecordProperty
) -> None:
    server, first, second, _ = everybody
    deployed(server, first, second)
    (server.home / "my.toml").write_text(TRAINING)
    (server.home / "my.toml").chmod(0o644)
    ratios = []
    with busy(load):
        for _ in range(RUNS):
            torch = median(torch_s() for _ in range(3))
            ratios.append(first_round_s(server, readme("hypergpu run")) / torch)
    figures = ", ".join(f"{ratio:.1f}" for ratio in ratios)
    print(f"{load} busy processes beside: first round after {figures} times importing torch")
    record_property("first round in imports of torch", figures)
    assert max(ratios[0], median(ratios)) <= MOST_IMPORTS
    names = sorted(path.name for path in (server.home / "runs").glob("digits-mlp-*"))
    assert len(names) == RUNS
    for name in names:
        server.do(f"hypergpu ledger verify {name}")
    assert len(json.loads(server.do("hypergpu nodes latest --format json"))) == 2


def test_no_place_on_the_operators_machine_is_looked_for_on_another(everybody: tuple[Person, ...]) -> None:
    server, first, second, operator = everybody
    deployed(server, first, second)
    server.give("keys/ca.crt", operator)
    flower = operator.home / ".flwr"
    flower.mkdir()
    connection = f'address = "127.0.0.1:{server.port}"\nroot-certificates = "{operator.home / "ca.crt"}"\n'
    (flower / "config.toml").write_text(f"[superlink.deployed]\n{connection}")
    for place in ("keystore.json", "links.csv", "my.toml"):
        (operator.home / place).write_text(TRAINING)
    for path in (flower, *flower.iterdir(), *operator.home.iterdir()):
        path.chmod(0o755)
        if operator.user is not None:
            subprocess.run(["chown", str(operator.user), str(path)], check=True)
    command = f"{readme('hypergpu run')} --name theirs --runs {operator.home / 'results'}"
    for place, value in {
        "training.data_root": operator.home / "data",
        "blockchain.keystore": operator.home / "keystore.json",
        "network.links_file": operator.home / "links.csv",
        "system.log_file": "theirs.log",
    }.items():
        command += f" --set {place}={value}"
    said = operator.do(command)
    assert "round   3/3" in said and "HYPERGPU_BLOCKCHAIN__KEYSTORE" in said
    run = server.home / "runs" / "theirs"
    assert {"report.json", "ledger.json", "run.log"} <= {path.name for path in run.iterdir()}
    server.do("hypergpu ledger verify theirs")
    for person in (server, first, second):
        assert str(operator.home) not in person.output
    for node in (first, second):
        assert list((node.home / "state").iterdir())
    owned = {path.stat().st_uid for path in Path(server.home).rglob("*") if not path.is_symlink()}
    assert server.user is None or owned == {server.user}


def test_two_hosts_as_they_stand_in_the_readme_with_the_proxy_between(nginx: Path, alone: list[str]) -> None:
    with people("server", "site-a", "site-b") as (server, *nodes):
        for one in (server, *nodes):
            one.prefix = alone
        server.do(readme("hypergpu node certs"))
        server.do(readme("hypergpu node keys"))
        keys = server.home / "run"  # /run/keys of the host, which only root may fill
        as_root(readme("sudo install").replace("-t /run/keys", f"-t {keys}"), server.home, alone)
        with proxied(nginx, keys, alone, server.home.parent / "proxy.log"):
            server.start(readme("hypergpu server start"))
            server.has("Application startup complete")
            for i, node in enumerate(nodes):
                server.do(readme("hypergpu node register").replace("site-a", node.name))
                server.give("keys/ca.crt", node)
                server.give(f"keys/{node.name}", node)
                node.do(readme("hypergpu keys new", within=True))
                start = readme("hypergpu node start").replace("site-a", node.name)
                node.start(start.replace("partition-id=0", f"partition-id={i}") + f" --port {9100 + i}")  # one machine
            for node in nodes:
                node.has("SuperNode ID")
            (server.home / "my.toml").write_text(TRAINING)
            (server.home / "my.toml").chmod(0o644)
            said = server.do(readme("hypergpu run"))
            assert "round   3/3" in said
            assert len(json.loads(server.do(f"{readme('hypergpu nodes latest')} --format json"))) == 2
            server.do("hypergpu ledger verify latest")
            assert "round   3/3" in server.do(readme("hypergpu attach latest"))


def as_root(command: str, where: Path, prefix: list[str]) -> None:
    """Do a command of the README that begins with sudo."""
    words = shlex.split(command.removeprefix("sudo "))
    subprocess.run([*prefix, *words], cwd=where, check=True)


@contextlib.contextmanager
def proxied(nginx: Path, keys: Path, prefix: list[str], log: Path) -> Iterator[None]:
    """The proxy as the README starts it, with the host's /run/keys, and a /tmp that is its own."""
    command = readme("sudo nginx -c").replace("$PWD", str(REPOSITORY)).replace("sudo nginx", str(nginx))
    mounts = "mount -t tmpfs tmpfs /run && mkdir /run/keys && "
    mounts += f"mount --bind {keys} /run/keys && mount -t tmpfs tmpfs /tmp && exec "
    with log.open("wb") as said:
        process = subprocess.Popen(
            [*prefix, "unshare", "--mount", "sh", "-c", f"{mounts}{command} -g 'daemon off;'"], stdout=said, stderr=said
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=20)
        print(log.read_text())
