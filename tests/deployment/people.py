"""The people of a deployment on one machine, each a user with a home of its own, doing what the README says."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from hypergpu_fl.children import free_port
from tests.deployment.stack import PASSWORD, PROGRAMS, REPOSITORY, below

README = REPOSITORY / "deploy" / "README.md"
FIRST_USER = 50_001
LIMIT_S = 600.0


@dataclass
class Person:
    """A user with a home that nobody else may enter; without root, all are the same user."""

    name: str
    home: Path
    user: int | None
    port: int = field(default_factory=free_port)
    prefix: list[str] = field(default_factory=list)  # where its commands run
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def environ(self) -> dict[str, str]:
        """Nothing of the test's own environment but where the programs and the app lie."""
        path = os.pathsep.join([str(PROGRAMS), "/usr/bin", "/bin"])
        keeping = {"HOME": str(self.home), "PATH": path, "PYTHONPATH": str(REPOSITORY), "LANG": "C.UTF-8"}
        return keeping | {"HYPERGPU_KEYSTORE_PASSWORD": PASSWORD, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}

    def start(self, command: str, **more: str) -> subprocess.Popen[bytes]:
        """Start a command of the README in the home, its output in ``output``."""
        words = shlex.split(command)
        with (self.home.parent / f"{self.name}.log").open("ab") as log:
            process = subprocess.Popen(
                self.prefix + (words if self.user is None else as_user(self.user, words, self.home.parent)),
                cwd=self.home,
                env=self.environ | more,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def do(self, command: str, **more: str) -> str:
        """Do a command to its end, which must be a good one; what it printed."""
        before = len(self.output)
        code = self.start(command, **more).wait(timeout=LIMIT_S)
        printed = self.output[before:]
        assert code == 0, f"{self.name}: {command}: {code}\n{printed[-4000:]}"
        return printed

    @property
    def output(self) -> str:
        """All that this person's commands have printed."""
        with contextlib.suppress(FileNotFoundError):
            return (self.home.parent / f"{self.name}.log").read_text(errors="replace")
        return ""

    def give(self, file: str, to: Person) -> None:
        """Copy a file of one's own into another's home, which owns the copy."""
        copy = Path(shutil.copy(self.home / file, to.home / Path(file).name))
        if to.user is not None:
            os.chown(copy, to.user, to.user)

    def has(self, words: str, within_s: float = 90.0) -> None:
        """Wait until these words are in the output."""
        until_s = time.monotonic() + within_s
        while words not in self.output:
            assert time.monotonic() < until_s, f"{self.name} never said {words!r}:\n{self.output[-4000:]}"
            time.sleep(0.1)


def as_user(user: int, words: list[str], scratch: Path) -> list[str]:
    """``words`` as another user does them, who sees of a folder closed to him what he needs, and nothing else."""
    needed = [str(path) for path in (Path(sys.base_prefix), Path(sys.prefix), REPOSITORY) if closed_above(path)]
    shown = "".join(
        f"mkdir -p {scratch}/shown{i} && mount --bind {path} {scratch}/shown{i} && " for i, path in enumerate(needed)
    )
    shown += "".join(
        f"mount -t tmpfs -o mode=755 tmpfs {folder} && " for folder in {closed_above(Path(p)) for p in needed}
    )
    shown += "".join(f"mkdir -p {path} && mount --bind {scratch}/shown{i} {path} && " for i, path in enumerate(needed))
    change = f"exec setpriv --reuid {user} --regid {user} --clear-groups -- "
    return ["unshare", "--mount", "sh", "-c", shown + change + shlex.join(words)]


def closed_above(path: Path) -> Path | None:
    """The outermost folder above ``path`` that other users may not enter."""
    return next((folder for folder in reversed(path.parents) if not folder.stat().st_mode & 0o001), None)


@contextlib.contextmanager
def people(*names: str) -> Iterator[list[Person]]:
    """People who share nothing but the machine; all that they started ends with them."""
    root = Path(tempfile.mkdtemp(prefix="hypergpu-people-"))
    root.chmod(0o755)
    found = []
    for i, name in enumerate(names):
        home, user = root / name, FIRST_USER + i if os.geteuid() == 0 and shutil.which("unshare") else None
        home.mkdir(mode=0o700)
        if user is not None:
            os.chown(home, user, user)
        found.append(Person(name, home, user))
    try:
        yield found
    finally:
        for person in found:
            for process in reversed(person.started):
                everything = below(process)
                for one in everything:
                    with contextlib.suppress(psutil.Error):
                        one.kill()
                psutil.wait_procs(everything, timeout=10)
                process.wait(timeout=10)
        shutil.rmtree(root)


def readme(start: str, *, within: bool = False) -> str:
    """The first command of the README that starts with these words, as it stands there, or ``within`` its text."""
    if within:
        found = re.search(rf"`({re.escape(start)}[^`]*)`", README.read_text())
        assert found
        return found[1]
    blocks = re.findall(r"```bash\n(.*?)```", README.read_text(), re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    lines = [line for whole in lines for line in whole.split(" && ")]
    found = [re.sub(r"^HYPERGPU_KEYSTORE_PASSWORD=\.\.\. ", "", line) for line in lines]
    return next(line for line in found if line.startswith(start)).partition(" #")[0].strip()


def deployed(server: Person, *nodes: Person) -> None:
    """Bring a server and its nodes up by the README, but for the proxy and the ports."""
    server.do(readme("hypergpu node certs"))
    server.do(readme("hypergpu node keys").removesuffix("site-a site-b") + " ".join(node.name for node in nodes))
    server.start(f"{readme('hypergpu server start')} --port {server.port}")
    server.has("Application startup complete")
    start = readme("hypergpu node start").replace("link.example:8443", f"127.0.0.1:{server.port}")
    for i, node in enumerate(nodes):
        server.do(readme("hypergpu node register").replace("site-a", node.name))
        server.give("keys/ca.crt", node)
        server.give(f"keys/{node.name}", node)
        node.do("hypergpu keys new keystore.json")
        mine = start.replace("site-a", node.name).replace("partition-id=0", f"partition-id={i}")
        node.start(mine.replace("num-partitions=2", f"num-partitions={len(nodes)}") + f" --port {node.port}")
    for node in nodes:
        node.has("SuperNode ID")


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """So many processes beside, each of which takes all of a processor that it gets."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in started:
            process.send_signal(signal.SIGKILL)
            process.wait()
