"""What the deployment tests share: a stack in namespaces where they may be made, else behind relays."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path

import pytest

from hypergpu_fl.chain.anvil import find_anvil
from hypergpu_fl.config import Config, load
from tests.deployment.machine import Machine, machine
from tests.deployment.relay import Shape
from tests.deployment.stack import Stack, namespaces_work
from tests.npm_tools import contracts

__all__ = ["contracts"]

MakeStack = Callable[[Sequence[Shape]], Stack]
MakeMachine = Callable[[], Machine]


@pytest.fixture(scope="session")
def namespaces() -> bool:
    """Whether links carry real packets."""
    return namespaces_work()


@pytest.fixture
def make_stack(tmp_path: Path, namespaces: bool) -> Iterator[MakeStack]:
    """Stacks that end with the test."""
    with ExitStack() as stacks:
        yield lambda shapes: stacks.enter_context(Stack(tmp_path, shapes, namespaces=namespaces))


@pytest.fixture
def full_disk(namespaces: bool, tmp_path: Path) -> Iterator[Path]:
    """A file system without a free byte; mounting one takes the rights that namespaces take."""
    if not namespaces:
        pytest.skip("mounting a small file system needs root")
    folder = tmp_path / "full"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], check=True)
    try:
        with (folder / "filler").open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(4096)):
                pass
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(params=["nginx", "caddy"])
def proxy_program(request: pytest.FixtureRequest) -> tuple[str, Path]:
    """A proxy's name and its program, which need not be installed."""
    return request.param, installed(request.param)


@pytest.fixture
def configure() -> Callable[..., Config]:
    """A small deployed run: digits, every node in the cohort."""

    def build(stack: Stack, name: str, **settings: object) -> Config:
        given = {
            "training.num_nodes": len(stack.nodes),
            "network.enable_simulation": "false",
            "network.cohort": len(stack.nodes),
            "system.run_name": name,
        }
        given |= {key.replace("__", "."): value for key, value in settings.items()}
        return load(None, {key: str(value) for key, value in given.items()}, {}).config

    return build


@pytest.fixture
def make_machine(namespaces: bool, contracts: Path) -> Iterator[MakeMachine]:
    """Machines for containers, with this machine's nginx and anvil; they end with the test."""
    with ExitStack() as machines:
        yield lambda: machines.enter_context(a_machine(namespaces, contracts))


@pytest.fixture(scope="module")
def machine_of_module(namespaces: bool, contracts: Path) -> Iterator[Machine]:
    """A machine for containers that ends with the module's tests."""
    with a_machine(namespaces, contracts) as made:
        yield made


@pytest.fixture
def nginx() -> Path:
    """This machine's nginx."""
    return installed("nginx")


@pytest.fixture
def python() -> str:
    """A Python of the images' release, found on PATH or among pyenv's."""
    for program in (shutil.which("python3.12"), *map(str, Path.home().glob(".pyenv/versions/3.12*/bin/python"))):
        if program and subprocess.run([program, "-c", ""], capture_output=True, check=False).returncode == 0:
            return program
    pytest.skip("Python 3.12, which the images have, is not installed")


@pytest.fixture
def alone(namespaces: bool, tmp_path: Path) -> Iterator[list[str]]:
    """What begins a command that runs in a network of its own, where the README's names are known."""
    if not namespaces:
        pytest.skip("a network of one's own needs root")
    name, hosts = f"hg-alone-{os.getpid()}", tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost superlink link.example\n")
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        mount = f'mount --bind {hosts} /etc/hosts && exec "$@"'
        yield ["ip", "netns", "exec", name, "unshare", "--mount", "sh", "-c", mount, "sh"]
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def a_machine(namespaces: bool, contracts: Path) -> AbstractContextManager[Machine]:
    """A machine for containers where there may be one."""
    if not namespaces:
        pytest.skip("namespaces and mounts of containers need root")
    return machine(installed("nginx"), find_anvil([contracts]))


def installed(program: str) -> Path:
    """Path of a program that need not be installed."""
    found = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        pytest.skip(f"{program} is not installed")
    return Path(found)
