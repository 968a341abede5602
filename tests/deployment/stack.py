"""A real deployment on this machine: SuperLink, SuperNodes behind links of known shape, TLS and node keys.

As root each node lives in a network namespace behind ``packets.py``; elsewhere it runs on loopback behind a
``TcpRelay``. Every process is started in a session of its own and ended by process id.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from hypergpu_fl.children import free_port
from hypergpu_fl.cli.submission import Submission, submit
from hypergpu_fl.cli.superlink import flower_environment
from hypergpu_fl.config import Config
from hypergpu_fl.network.certificates import write_certificates, write_node_key
from hypergpu_fl.task import load_task
from tests.deployment.relay import Shape, TcpRelay

PROGRAMS = Path(sys.executable).parent
REPOSITORY = Path(__file__).resolve().parents[2]
PASSWORD = "only-for-tests"
CONNECTION = "deployed"
START_LIMIT_S = 60.0


def namespaces_work() -> bool:
    """Whether this user may make network namespaces and TUN devices here."""
    if os.geteuid() or not os.access("/dev/net/tun", os.R_OK | os.W_OK) or not shutil.which("ip"):
        return False
    name = f"hg-try-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode == 0
    return made and subprocess.run(["ip", "netns", "del", name], check=False).returncode == 0


@dataclass
class Node:
    """One SuperNode: where it runs, how it reaches the SuperLink, and its process while it lives."""

    index: int
    shape: Shape
    address: str  # the SuperLink's, as this node sees it
    prefix: list[str]
    relay: TcpRelay | None = None
    process: subprocess.Popen[bytes] | None = None
    config: dict[str, Any] = field(default_factory=dict)


class Stack:
    """SuperLink and nodes; a context manager that leaves nothing running.

    Parameters
    ----------
    folder : Path
        For everything: keys, Flower's home, logs, runs.
    shapes : sequence of Shape
        One link a node.
    namespaces : bool
        Real packets through namespaces, else connections through relays.
    """

    def __init__(self, folder: Path, shapes: Sequence[Shape], *, namespaces: bool) -> None:
        self.folder, self.namespaces = folder, namespaces
        self.port = free_port()
        self.runs = folder / "runs"
        self.environ = {
            **flower_environment(os.environ),
            "FLWR_HOME": str(folder / "flower"),
            "HYPERGPU_RUNS": str(self.runs),
            "HYPERGPU_KEYSTORE_PASSWORD": PASSWORD,
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
        }
        self.superlink: subprocess.Popen[bytes] | None = None
        self._started: list[subprocess.Popen[bytes]] = []
        self._exits = contextlib.ExitStack()
        network, tag = random.SystemRandom().randrange(16, 240), f"hg{os.getpid() % 100_000}"
        self._sites = [
            {
                "namespace": f"{tag}-{i}",
                "device": f"{tag}{i}",
                "node_address": f"10.{network}.{i}.2",
                "host_address": f"10.{network}.{i}.1",
                "uplink_bps": shape.uplink_bps,
                "downlink_bps": shape.downlink_bps,
                "delay_s": shape.delay_s,
                "loss": shape.loss,
            }
            for i, shape in enumerate(shapes)
        ]
        self.nodes = [self._place(i, shape) for i, shape in enumerate(shapes)]

    def _place(self, index: int, shape: Shape) -> Node:
        if not self.namespaces:
            return Node(index, shape, "", [])
        site = self._sites[index]
        address = f"{site['host_address']}:{self.port}"
        return Node(index, shape, address, ["ip", "netns", "exec", str(site["namespace"])])

    def __enter__(self) -> Stack:
        with contextlib.ExitStack() as undo:
            undo.callback(self._end_all)
            self._make_secrets()
            if self.namespaces:
                command = [sys.executable, str(Path(__file__).with_name("packets.py")), json.dumps(self._sites)]
                self._packets = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
                )
                undo.callback(self._close_packets)
                assert self._packets.stdout is not None
                if self._packets.stdout.readline().strip() != "ready":
                    raise RuntimeError("the packet relay did not start")
            else:
                for node in self.nodes:
                    node.relay = undo.enter_context(TcpRelay(("127.0.0.1", self.port), node.shape))
                    node.address = f"127.0.0.1:{node.relay.port}"
            self._exits = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()

    def start_superlink(self, *options: str, wait: bool = True) -> None:
        """Start the SuperLink and wait until it answers."""
        keys = self.folder / "keys"
        self.superlink = self.start(
            "superlink",
            [str(PROGRAMS / "flower-superlink"), "--host", "0.0.0.0" if self.namespaces else "127.0.0.1"]
            + ["--port", str(self.port), "--enable-supernode-auth"]
            + ["--ssl-ca-certfile", str(keys / "ca.crt"), "--ssl-certfile", str(keys / "server.pem")]
            + ["--ssl-keyfile", str(keys / "server.key"), *options],
        )
        if wait:
            self.wait_for(self._healthy, "the SuperLink to answer", START_LIMIT_S)

    def start_server(self, *options: str) -> None:
        """Start SuperLink and SuperExec as deploy/README does, and wait until they answer."""
        self.superlink = self.start(
            "superlink",
            [str(PROGRAMS / "hypergpu"), "server", "start", "--certs", str(self.folder / "keys")]
            + ["--host", "0.0.0.0" if self.namespaces else "127.0.0.1", "--port", str(self.port), *options],
        )
        self.wait_for(self._healthy, "the SuperLink to answer", START_LIMIT_S)

    def register(self, *indices: int) -> None:
        """Let nodes in."""
        from hypergpu_fl.cli import invoke

        files = [str(self.folder / "keys" / f"node-{i}.pub") for i in indices or range(len(self.nodes))]
        saved = dict(os.environ)
        os.environ.update(self.environ)
        try:
            assert invoke(["node", "register", *files, "--superlink", CONNECTION, "--format", "json"]) == 0
        finally:
            os.environ.clear()
            os.environ.update(saved)

    def start_node(
        self,
        index: int,
        *,
        plain: bool = False,
        key: str = "",
        environ: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
        **config: Any,
    ) -> Node:
        """Start a SuperNode, with ``plain`` Flower's own; ``config`` adds to its node-config."""
        node, keys = self.nodes[index], self.folder / "keys"
        node.config = {
            "partition-id": index,
            "num-partitions": len(self.nodes),
            "superlink": node.address,
            "root-certificates": str(keys / "ca.crt"),
            "keystore": str(keys / f"keystore-{index}.json"),
            "state-dir": str(self.folder / f"state-{index}"),
            **{name.replace("_", "-"): value for name, value in config.items()},
        }
        pairs = [f"{k}={json.dumps(v)}" for k, v in node.config.items()]
        program = [str(PROGRAMS / "flower-supernode")] if plain else [str(PROGRAMS / "hypergpu"), "node", "start"]
        node.process = self.start(
            f"node-{index}",
            [*node.prefix, *program, "--root-certificates", str(keys / "ca.crt")]
            + ["--superlink", node.address, "--auth-supernode-private-key", str(keys / (key or f"node-{index}"))]
            + ["--port", str(9094 if self.namespaces else free_port()), "--node-config", " ".join(pairs), *options],
            environ=environ,
        )
        return node

    def submit(self, config: Config) -> Submission:
        """Hand the app in.

        The data are prepared here, once; every node's process would import the libraries for it at the same time.
        """
        load_task(config.training, cache=self.runs / ".cache").examples(0)
        return submit(config, app=REPOSITORY, connection=CONNECTION, environ=self.environ, scratch=self.folder)

    def submit_app(self, app: Path, settings: Mapping[str, Any]) -> Submission:
        """Hand another app in."""
        command = [str(PROGRAMS / "flwr"), "run", str(app), CONNECTION, "--format", "json"]
        pairs = " ".join(f"{key}={json.dumps(value)}" for key, value in settings.items())
        done = subprocess.run(
            [*command, "--run-config", pairs],
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"flwr run: {done.stdout[-2000:]} {done.stderr[-2000:]}")
        return Submission(str(json.loads(done.stdout)["run-id"]), CONNECTION, self.environ)

    def wait(self, submission: Submission, limit_s: float) -> tuple[str, str]:
        """Status and details of a run once it has finished, or as they are after ``limit_s``.

        The log is followed to its end meanwhile: every question for the status starts a Python that takes the nodes'
        processor for a second or two.
        """
        until_s = time.monotonic() + limit_s
        status, details = submission.status()
        while not status.startswith("finished") and time.monotonic() < until_s:
            with submission.follow() as log, contextlib.suppress(subprocess.TimeoutExpired):
                try:
                    log.communicate(timeout=max(1.0, until_s - time.monotonic()))
                finally:
                    log.kill()
            time.sleep(1.0)
            status, details = submission.status()
        return status, details

    def wait_for(self, condition: Any, what: str, limit_s: float) -> None:
        """Wait until ``condition()`` is true; RuntimeError after ``limit_s``."""
        until_s = time.monotonic() + limit_s
        while not condition():
            if time.monotonic() > until_s:
                raise RuntimeError(f"waited {limit_s:.0f} s in vain for {what}; logs are in {self.folder}")
            time.sleep(0.2)

    def change(self, index: int, **changes: Any) -> None:
        """Change a running link: ``cut=True`` or ``cut=False``; with namespaces ``delay_s`` and ``loss`` too."""
        if self.namespaces:
            assert self._packets.stdin is not None
            self._packets.stdin.write(json.dumps({"site": index, **changes}) + "\n")
            self._packets.stdin.flush()
            return
        relay = self.nodes[index].relay
        assert relay is not None and changes.keys() == {"cut"}
        relay.cut() if changes["cut"] else relay.mend()

    def log(self, name: str) -> str:
        """What a process has printed so far."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def start(
        self, name: str, command: Sequence[str], *, environ: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a program in a session of its own, its output in ``NAME.log``."""
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                env={**self.environ, **(environ or {})},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def kill(self, process: subprocess.Popen[bytes], signal_: signal.Signals = signal.SIGKILL) -> None:
        """Signal a program and everything below it, as when its machine goes down."""
        everything = below(process)
        for one in everything:
            with contextlib.suppress(psutil.Error):
                one.send_signal(signal_)
        if signal_ == signal.SIGKILL:
            psutil.wait_procs(everything, timeout=10)
            process.wait(timeout=10)

    def _healthy(self) -> bool:
        if self.superlink is not None and self.superlink.poll() is not None:
            raise RuntimeError(f"the SuperLink ended while starting:\n{self.log('superlink')[-2000:]}")
        import ssl

        trust = ssl.create_default_context(cafile=str(self.folder / "keys" / "ca.crt"))
        with contextlib.suppress(OSError), urllib.request.urlopen(self._url, timeout=2, context=trust):
            return True
        return False

    @property
    def _url(self) -> str:
        return f"https://127.0.0.1:{self.port}/health"

    def _make_secrets(self) -> None:
        keys = self.folder / "keys"
        hosts = [str(site["host_address"]) for site in self._sites] if self.namespaces else []
        write_certificates(keys, hosts, now=datetime.datetime.now(datetime.UTC))
        for node in self.nodes:
            write_node_key(keys, f"node-{node.index}")
            write_keystore(keys / f"keystore-{node.index}.json", node.index)
        home = self.folder / "flower"
        home.mkdir(exist_ok=True)
        connection = [
            "[superlink]",
            f'default = "{CONNECTION}"',
            f"[superlink.{CONNECTION}]",
            f'address = "127.0.0.1:{self.port}"',
            f'root-certificates = "{keys / "ca.crt"}"',
        ]
        (home / "config.toml").write_text("\n".join(connection) + "\n")

    def _close_packets(self) -> None:
        assert self._packets.stdin is not None and self._packets.stdout is not None
        self._packets.stdin.close()
        try:
            self._packets.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._packets.kill()
            self._packets.wait()
        self._packets.stdout.close()

    def _end_all(self) -> None:
        for process in reversed(self._started):
            with contextlib.suppress(psutil.Error, subprocess.TimeoutExpired):
                self.kill(process)


def below(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Live processes in the session of ``process``, and those that descend from it."""
    found: dict[int, psutil.Process] = {}
    with contextlib.suppress(psutil.Error):
        for one in psutil.Process(process.pid).children(recursive=True):
            found[one.pid] = one
    sessions = {process.pid}
    for one in found.values():
        with contextlib.suppress(OSError):
            sessions.add(os.getsid(one.pid))
    sessions.discard(os.getsid(0))
    for one in psutil.process_iter():
        with contextlib.suppress(OSError):
            if os.getsid(one.pid) in sessions:
                found[one.pid] = one
    return list(found.values())


def write_keystore(file: Path, index: int) -> str:
    """Keystore of a test node, made cheap to open; returns its address."""
    from eth_account import Account

    secret = (0xA11CE + index).to_bytes(32, "big")
    file.write_text(json.dumps(Account.encrypt(secret, PASSWORD, kdf="pbkdf2", iterations=1000)))
    return str(Account.from_key(secret).address)
