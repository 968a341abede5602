"""The forms under deploy/, brought up as their documentation says: compose files and manifests."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from hypergpu_fl.cli import invoke
from tests.deployment import composing, kubelet
from tests.deployment.containers import Container, Running
from tests.deployment.machine import Machine
from tests.deployment.people import README
from tests.deployment.stack import REPOSITORY
from tests.manifests import port_of, reaches

DEPLOY = REPOSITORY / "deploy"
PROJECT = """
[server]
address = "link.example:443"
[sites.first]
nodes = ["node-0", "node-1"]
[sites.second]
nodes = ["node-2"]
"""
Change = Callable[[str, Any], None]  # puts a fault into a compose file or manifests before they are read


def unchanged(name: str, document: Any) -> None:
    """Put no fault in."""


def provisioned(folder: Path) -> Path:
    """Archives of a server and two sites."""
    (folder / "project.toml").write_text(PROJECT)
    assert invoke(["node", "provision", str(folder / "project.toml")]) == 0
    return folder / "provisioned" / "archives"


def unpack(archive: Path, where: Path) -> Path:
    """What ``sudo tar -xzf`` leaves."""
    where.mkdir(parents=True, exist_ok=True)
    subprocess.run(["tar", "-xzf", str(archive), "-C", str(where)], check=True)
    (found,) = where.iterdir()
    return found


def documented(words: str) -> list[str]:
    """The command in deploy/README that begins with these words, without them."""
    text = re.sub(r"\\\n\s*", " ", README.read_text(encoding="utf-8"))
    found = re.search(rf"(?:^|`|&& ){re.escape(words)} ([^`\n#]*)", text, re.M)
    assert found, f"deploy/README does not say {words!r}"
    return shlex.split(found[1])


@dataclass
class Trained:
    """What came out of a run, fetched as the README says."""

    report: dict[str, Any]
    verified: str
    said: str


class Compose:
    """A compose project that is up."""

    def __init__(self, machine: Machine, file: Path, folder: Path, scope: str, change: Change, name: str) -> None:
        variables = composing.env_file(folder / ".env") if (folder / ".env").exists() else {}
        self.file = composing.read(file, variables)
        change(name, self.file)
        self.machine, self.scope, self.folder = machine, scope, folder
        self._runs = itertools.count(1)
        prefix = "" if scope in ("server", "demo") else f"{scope}-"
        made = composing.containers(self.file, folder, machine.images, machine.folder / "volumes", prefix)
        self.containers = made
        for service, ours, theirs in composing.published(self.file):
            machine.wires.serve(
                ours,
                lambda s=service, p=theirs: [(machine.addresses[s], p)] if s in machine.addresses else [],
                address=machine.wires.host,
            )

    def up(self) -> None:
        """``docker compose up``."""
        wanted = [name for name, service in self.file["services"].items() if "profiles" not in service]
        for name in composing.in_order(wanted, self.containers):
            self._meet(self.containers[name])
            self._start(self.containers[name], name)

    def _meet(self, container: Container) -> None:
        here = self.machine
        for other, condition in container.needs.items():
            if condition == "service_healthy":
                here.until(partial(here.healthy, other), f"{other} to be healthy", here.ready_s)
            elif condition == "service_completed_successfully":
                here.until(partial(here.done, other), f"{other} to be done", here.ready_s)

    def _start(self, container: Container, name: str) -> Running:
        started = self.machine.start(container, self.scope)
        self.machine.wires.names[self.scope][name] = self.machine.addresses[container.name]
        return started

    def run(self, words: list[str]) -> str:
        """``docker compose run --rm`` with these words, options, service, command, to a good end; what it printed."""
        one = self.start(words)
        self.machine.until(lambda: one.code == 0, f"`{' '.join(words)}` to end well", self.machine.run_s)
        return one.log

    def start(self, words: list[str]) -> Running:
        """Start what `run` does."""
        entrypoint = None
        while words[0].startswith("--"):
            entrypoint, words = (words[1], words[2:]) if words[0] == "--entrypoint" else (entrypoint, words[1:])
        service, *command = words
        container = self.containers[service]
        head = [entrypoint] if entrypoint else self.file["services"][service]["entrypoint"]
        self._meet(container)
        name = f"{service}-run-{next(self._runs)}"
        return self._start(replace(container, name=name, command=(*head, *command), restarts=False), name)


def demo(machine: Machine, change: Change = unchanged) -> Trained:
    """``deploy/compose/demo.yaml``."""
    folder = DEPLOY / "compose"
    project = Compose(machine, folder / "demo.yaml", folder, "demo", change, "demo")
    project.up()
    train = machine.running["train"]
    machine.until(lambda: train.code == 0, "the demo to end well", machine.run_s)
    fetched = machine.folder / "volumes" / "demo" / "runs" / "demo" / "report.json"
    return Trained(json.loads(fetched.read_text()), train.log, train.log)


def brought_up(machine: Machine, change: Change = unchanged) -> Compose:
    """The compose files of the archives, up: a server's host and two sites'."""
    archives = provisioned(machine.folder)
    server = unpack(archives / "server.tar.gz", machine.folder / "server-host")
    change("archive", server)
    project = Compose(machine, server / "compose.yaml", server, "server", change, "server")
    project.up()
    project.run(documented("sudo docker compose run --rm"))
    for site in ("first", "second"):
        home = unpack(archives / f"{site}.tar.gz", machine.folder / f"{site}-host")
        for node in sorted(path for path in home.iterdir() if path.is_dir()):
            change("archive", node)
            machine.wires.names.setdefault(node.name, {})["link.example"] = machine.wires.host
            Compose(machine, node / "compose.yaml", node, node.name, change, "node").up()
    nodes = [name for name in machine.running if name.endswith("-node")]
    machine.let_in(nodes)
    return project


def composed(machine: Machine, change: Change = unchanged) -> Trained:
    """A run by the README's words, through the compose files of the archives."""
    project = brought_up(machine, change)
    server = project.folder
    (server / "work" / "my.toml").write_text("[training]\nnum_nodes = 3\nrounds = 3\n[network]\ncohort = 3\n")
    said = project.run(["operator", *documented("sudo docker compose run --rm operator")])
    verified = project.run(["operator", "ledger", "verify", "latest"])
    fetched = server / "state" / "runs" / "latest" / "report.json"
    return Trained(json.loads(fetched.read_text()), verified, said)


class Cluster:
    """Manifests that are applied."""

    scope = "cluster"

    def __init__(self, machine: Machine, documents: list[kubelet.Document], given: kubelet.Held) -> None:
        self.machine, names = machine, machine.wires.names.setdefault(self.scope, {})
        there = given | kubelet.held(documents)
        self.workloads = kubelet.workloads(documents, there, machine.images, machine.folder / "volumes")
        for one in documents:
            if one["kind"] == "Service" and one["spec"].get("ports"):
                for port in one["spec"]["ports"]:
                    names[one["metadata"]["name"]] = machine.wires.serve(
                        port["port"],
                        lambda s=one["spec"]["selector"], p=port["targetPort"]: self._ready(s, p),
                    )
        for workload in self.workloads:
            for container in workload.containers:
                machine.start(container, self.scope)

    def _ready(self, selector: dict[str, str], port: str) -> list[tuple[str, int]]:
        return [
            (self.machine.addresses[container.name], workload.ports[port])
            for workload in self.workloads
            if selector.items() <= workload.labels.items()
            for container in workload.containers
            if container.name in self.machine.running and self.machine.running[container.name].code is None
        ]

    def steady(self) -> list[str]:
        """Names of containers that run on."""
        return [c.name for w in self.workloads for c in w.containers if w.kind != "Job"]

    def done(self, job: str) -> bool:
        """Whether a Job is complete."""
        return all(self.machine.done(c.name) for w in self.workloads if w.name == job for c in w.containers)


def cluster(machine: Machine, form: str, change: Change = unchanged) -> Trained:
    """One of the forms under deploy/kubernetes: as it was rendered, or, as ``kustomize/FORM``, as kubectl puts it."""
    kustomized, _, form = form.rpartition("/")
    folder = DEPLOY / "kubernetes" / form
    text = (folder / "hypergpu.yaml").read_text(encoding="utf-8")
    if kustomized:
        text = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=True).stdout
    documents = [one for one in yaml.safe_load_all(text) if one]
    archives = provisioned(machine.folder)
    given: kubelet.Held = {}
    for archive in archives.glob("*.tar.gz"):
        with tarfile.open(archive) as packed:
            member = packed.extractfile(f"{archive.name.removesuffix('.tar.gz')}/secrets.json")
            assert member is not None
            given |= kubelet.held(json.load(member)["items"])
    _three_rounds(documents)
    change("manifests", documents)
    if form == "monad-testnet":
        _chain(machine, given)
        assert reaches(documents, "superexec", port_of(given["coordinator"]["rpc-url"].decode()))
    applied = Cluster(machine, documents, given)
    (register,) = (w.name for w in applied.workloads if w.name.startswith("register"))
    machine.until(lambda: applied.done(register), "the Job that registers", machine.ready_s)
    machine.until(lambda: all(map(machine.healthy, applied.steady())), "the probes", machine.ready_s)
    nodes = [name for name in applied.steady() if name.startswith("node-")]
    machine.let_in(nodes)
    (submit,) = (w.name for w in applied.workloads if w.name.startswith("submit"))
    machine.until(lambda: applied.done(submit), "the Job that submits", machine.run_s)
    verified = _exec(machine, documented("kubectl exec deploy/superexec --"))
    report = _exec(machine, documented("kubectl exec deploy/superexec -- cat"), "cat")
    return Trained(json.loads(report), verified, machine.running[submit].log)


def _exec(machine: Machine, words: list[str], *before: str) -> str:
    done = machine.running["superexec"].do([*before, *words])
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _three_rounds(documents: list[kubelet.Document]) -> None:
    for one in documents:
        if one["kind"] == "ConfigMap" and "run.json" in one["data"]:
            config = json.loads(one["data"]["run.json"])
            config.setdefault("training", {})["rounds"] = 3
            one["data"]["run.json"] = json.dumps(config)


def _chain(machine: Machine, given: kubelet.Held) -> None:
    """Where the testnet would be: anvil under its chain id, and a coordinator's Secret that knows where."""
    from eth_account import Account

    from hypergpu_fl.chain.anvil import FUNDED_SECRET

    service = composing.read(DEPLOY / "compose" / "demo.yaml", {})["services"]["chain"]
    service["command"] = [word.replace("31337", "10143") for word in service["command"]]
    (container,) = composing.containers(
        {"services": {"chain": service}}, DEPLOY, machine.images, machine.folder
    ).values()
    machine.start(container, Cluster.scope)
    machine.wires.names.setdefault(Cluster.scope, {})["chain"] = machine.wires.serve(
        443, lambda: [(machine.addresses["chain"], 8545)]
    )
    given["coordinator"] = {
        "keystore.json": json.dumps(Account.encrypt(FUNDED_SECRET, "monad", kdf="pbkdf2", iterations=1000)).encode(),
        "password": b"monad",
        "rpc-url": b"http://chain:443",
    }
