"""The units under deploy/systemd train: their own commands, environment, users and folders, by the README's steps."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.deployment.conftest import MakeMachine
from tests.deployment.containers import Container, Mount, Running
from tests.deployment.forms import provisioned
from tests.deployment.images import USER, image_of
from tests.deployment.machine import Machine
from tests.deployment.people import README
from tests.deployment.stack import REPOSITORY
from tests.deployment.units import host, service, unit

pytestmark = [pytest.mark.deployment, pytest.mark.slow]

# The README's commands of the operator: register the nodes, then run.
REGISTER, RUN = re.findall(r"^sudo -u hypergpu (sh -c '.*')$", README.read_text(encoding="utf-8"), re.M)

TRAINING = "[training]\nnum_nodes = 2\nrounds = 3\n[network]\ncohort = 2\n"


def unpacked(machine: Machine, archive: str, where: str) -> Path:
    """/etc/hypergpu of a host after the README's `tar`."""
    folder = machine.folder / where
    line = next(
        one for one in README.read_text().splitlines() if f"tar -xzf {archive}" in one and "/etc/hypergpu" in one
    )
    line = line.replace("sudo ", "").replace("/etc/hypergpu", str(folder))
    subprocess.run(["sh", "-c", line], cwd=machine.folder / "provisioned" / "archives", check=True)
    return folder


def operate(machine: Machine, beside: Container, name: str, command: str) -> str:
    """An operator's command of the README on the server's host, with nothing of the unit's environment."""
    image, _ = host(machine.programs)
    words = tuple(shlex.split(command))
    one = replace(beside, name=name, command=words, environ=image.environ, workdir="/", restarts=False)
    machine.addresses[one.name] = machine.addresses[beside.name]
    space = machine.running[beside.name].namespace
    machine.running[one.name] = started = Running(one, machine.folder, space, machine.programs)
    machine.until(lambda: started.code == 0, one.name, machine.run_s)
    return started.log


def test_a_run_through_the_units_completes(make_machine: MakeMachine, nginx: Path) -> None:
    machine = make_machine()
    provisioned(machine.folder)
    archives = machine.folder / "provisioned" / "archives"
    shutil.copy(archives / "first.tar.gz", archives / "tokyo.tar.gz")  # as the README calls a site
    server = unpacked(machine, "server.tar.gz", "server-etc")
    (server / "server" / "work" / "my.toml").write_text(TRAINING)
    one = service(unit("hypergpu-server.service"), server, machine.folder / "server-var", machine.programs)
    machine.start(one, "server")
    state = machine.folder / "server-var" / "hypergpu-server"
    proxied(machine, one, server, nginx)
    machine.until(lambda: "startup complete" in machine.running[one.name].log, "the server", machine.ready_s)
    assert "node-1" in operate(machine, one, "register", REGISTER)
    site = unpacked(machine, "tokyo.tar.gz", "first-etc")
    for name in ("node-0", "node-1"):
        made = service(unit("hypergpu-node@.service", name), site, machine.folder / f"{name}-var", machine.programs)
        machine.wires.names.setdefault(name, {})["link.example"] = machine.wires.host
        machine.start(made, name)
        data = made.environ["HYPERGPU_TRAINING__DATA_ROOT"]
        assert data == f"/var/lib/hypergpu-{name}/data"
    machine.let_in(["hypergpu-node-node-0", "hypergpu-node-node-1"])
    for name in ("node-0", "node-1"):
        node = machine.running[f"hypergpu-node-{name}"]
        writes = node.do(["sh", "-c", 'touch "$HYPERGPU_TRAINING__DATA_ROOT/x" && ! cat /etc/hypergpu/*/keys/node'])
        assert writes.returncode == 0, writes.stderr  # the archive's key is not the node's to read, but its copy
    said = operate(machine, one, "run", RUN)
    assert "round   3/3" in said
    report = json.loads((state / "runs" / "latest" / "report.json").read_text())
    assert [entry["arrived"] for entry in report["history"]] == [2, 2, 2]
    assert (machine.folder / "node-0-var" / "hypergpu-node-0" / "node").is_dir()


def proxied(machine: Machine, beside: Container, etc: Path, nginx: Path) -> None:
    """nginx on the server's host, as in "Two hosts", reached by its published port."""
    keys = etc / "server" / "keys"
    image = image_of("nginx:x", nginx=nginx, anvil=None)
    proxy = Container(
        "superlink",  # which the host's /etc/hosts says is 127.0.0.1
        image,
        (*image.entrypoint, *image.command),
        image.environ,
        (
            Mount("/run/keys", keys, read_only=True),
            Mount("/etc/nginx/nginx.conf", REPOSITORY / "deploy" / "proxy" / "nginx.conf", read_only=True),
            Mount("/tmp"),
        ),
        "/",
        USER,
        USER,
        True,
    )
    space = machine.running[beside.name].namespace
    machine.running["superlink"] = Running(proxy, machine.folder, space, machine.programs)
    address = machine.addresses[beside.name]
    machine.wires.serve(443, lambda: [(address, 8443)], address=machine.wires.host)


def test_a_nodes_env_file_says_where_its_data_lie_instead(make_machine: MakeMachine) -> None:
    machine = make_machine()
    provisioned(machine.folder)
    site = machine.folder / "etc"
    site.mkdir()
    archive = machine.folder / "provisioned" / "archives" / "first.tar.gz"
    subprocess.run(["tar", "-xzf", str(archive), "-C", str(site), "--strip-components", "1"], check=True)
    with (site / "node-0" / ".env").open("a") as file:
        file.write("HYPERGPU_TRAINING__DATA_ROOT=/srv/data\n")
    made = service(unit("hypergpu-node@.service", "node-0"), site, machine.folder / "var", machine.programs)
    assert made.environ["HYPERGPU_TRAINING__DATA_ROOT"] == "/srv/data"
    assert "partition-id=0" in " ".join(made.command) and "link.example:443" in made.command
