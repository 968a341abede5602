"""A machine that containers run on: started, tended to, asked for their health, ended."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.deployment.containers import Container, Running, until
from tests.deployment.images import Image, image_of, programs
from tests.deployment.wires import Wires


@dataclass
class Machine:
    """Containers on this machine; all end with the block."""

    folder: Path
    wires: Wires
    images: Callable[[str], Image]
    programs: Path
    running: dict[str, Running] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)
    ready_s: float = 300.0  # for what starts, on a crowded machine
    run_s: float = 900.0  # for a run
    most_ends: int = 6  # of a container that is started again; then something is wrong with it

    def start(self, container: Container, scope: str) -> Running:
        """Start a container in a network of its own."""
        space, self.addresses[container.name] = self.wires.add(container.name, scope)
        self.running[container.name] = Running(container, self.folder, space, self.programs)
        return self.running[container.name]

    def tend(self) -> None:
        """Start again what has ended and should not have; AssertionError if that does not help."""
        for name, one in self.running.items():
            if one.code is None or (one.code == 0 and not one.container.restarts):
                continue
            one.ends += 1
            most = self.most_ends if one.container.restarts else one.container.tries
            assert one.ends < most, f"{name} ends with {one.code}:\n{one.log[-3000:]}"
            time.sleep(one.ends)
            one.start_again()

    def until(self, condition: Callable[[], bool], what: str, limit_s: float) -> None:
        """Wait for ``condition``, and tend to what runs."""

        def holds() -> bool:
            self.tend()
            return condition()

        try:
            until(holds, what, limit_s)
        except AssertionError as error:
            logs = "\n".join(f"-- {name}:\n{one.log[-1500:]}" for name, one in self.running.items())
            raise AssertionError(f"{error}\n{logs}") from None

    def healthy(self, name: str) -> bool:
        """Whether a container answers what its form asks it."""
        one = self.running[name]
        if one.first is None:
            return False
        try:
            if one.container.health and one.do(one.container.health, 60.0).returncode:
                return False
        except subprocess.TimeoutExpired:
            return False
        return all(_answers(how, self.addresses[name], port) for how, port in one.container.probes)

    def done(self, name: str) -> bool:
        """Whether a container has ended well."""
        return self.running[name].code == 0

    def let_in(self, nodes: list[str]) -> None:
        """Wait until the SuperLink has let these nodes in."""
        self.until(lambda: all("SuperNode ID" in self.running[one].log for one in nodes), "the nodes", self.ready_s)

    def end(self) -> None:
        """End everything."""
        for one in self.running.values():
            one.kill()


def _answers(how: str, host: str, port: int) -> bool:
    """Ask as a kubelet does."""
    try:
        if how == "httpGet":
            trust = ssl.create_default_context()
            trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
            with urllib.request.urlopen(f"https://{host}:{port}/health", timeout=5, context=trust) as answer:
                return bool(answer.status == 200)
        if how == "grpc":
            import grpc
            from grpc_health.v1 import health_pb2, health_pb2_grpc

            with grpc.insecure_channel(f"{host}:{port}") as channel:
                asked = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
                return bool(asked.status == health_pb2.HealthCheckResponse.SERVING)
        with socket.create_connection((host, port), timeout=5):
            return True
    except Exception as error:  # grpc raises a kind of its own
        if isinstance(error, (OSError, RuntimeError)) or type(error).__module__.startswith("grpc"):
            return False
        raise


@contextlib.contextmanager
def machine(nginx: Path | None, anvil: Path | None) -> Iterator[Machine]:
    """A machine for a form's containers, in a folder that others may enter."""
    folder = Path(tempfile.mkdtemp(prefix="hypergpu-forms-"))
    folder.chmod(0o755)
    with Wires() as wires:
        made = Machine(
            folder,
            wires,
            lambda reference: image_of(reference, nginx=nginx, anvil=anvil),
            programs(folder / "programs"),
        )
        try:
            yield made
        finally:
            made.end()
            shutil.rmtree(folder, ignore_errors=True)
