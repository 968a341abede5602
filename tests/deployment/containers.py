"""A container's process without an engine: namespaces of its own, its image's files, its mounts, and nothing else.

What an engine or a kubelet would do is done with `unshare`, bind mounts, `chroot` and `setpriv`: the process is number
1 of its namespace, has no capability, sees no file but those of its image and its mounts, and reaches others by the
names that a resolver of ours tells (`tests.deployment.wires`). It takes root.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.deployment.images import VENV, Image

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc/ssl", "/etc/alternatives", "/etc/ld.so.cache")
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
EXEC_LIMIT_S = 240.0


@dataclass(frozen=True)
class Mount:
    """What lies at a path of the container: a folder or file of this machine, or, without a source, memory."""

    target: str
    source: Path | None = None
    read_only: bool = False
    options: str = "mode=1777"  # of the memory


@dataclass(frozen=True)
class Container:
    """All that a form says of a container."""

    name: str
    image: Image
    command: tuple[str, ...]
    environ: Mapping[str, str]
    mounts: tuple[Mount, ...]
    workdir: str
    user: int
    group: int
    read_only: bool
    shm: str = "size=64m"
    restarts: bool = True
    tries: int = 1  # of one that does not restart for ever
    health: tuple[str, ...] = ()  # a command that is done inside
    probes: tuple[tuple[str, int], ...] = ()  # what a kubelet asks: kind, port
    needs: Mapping[str, str] = field(default_factory=dict)  # other's name -> condition, as in compose
    grace_s: float = 10.0


class Running:
    """A container that was started.

    Parameters
    ----------
    container : Container
        What to run.
    folder : Path
        For its root and its log, ``NAME.log``.
    namespace : str
        Its network, made before.
    programs : Path
        See `images.programs`.
    """

    def __init__(self, container: Container, folder: Path, namespace: str, programs: Path) -> None:
        self.container, self.namespace, self._programs = container, namespace, programs
        self._root, self._log = folder / f"{container.name}.root", folder / f"{container.name}.log"
        self.ends = 0
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        _etc(self._root / "etc", self.container)
        with self._log.open("ab") as log:
            os.fchown(log.fileno(), self.container.user, self.container.group)  # else it could not open /dev/stderr
            return subprocess.Popen(
                ["ip", "netns", "exec", self.namespace]
                + ["unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "sh", "-c"]
                + [_script(self.container, self._root, self._programs) + f"exec chroot {self._root} {self._become()}"]
                + ["sh", *self.container.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _become(self) -> str:
        pairs = [f"{name}={value}" for name, value in self.container.environ.items()]
        who = f"--reuid {self.container.user} --regid {self.container.group} --clear-groups"
        less = "--bounding-set=-all --inh-caps=-all --no-new-privs"
        where = f"env -i -C {shlex.quote(self.container.workdir)} {shlex.join(pairs)}"
        return f'setpriv {who} {less} -- {where} "$@"'

    @property
    def log(self) -> str:
        """All that it has printed."""
        return self._log.read_text(errors="replace")

    @property
    def first(self) -> psutil.Process | None:
        """Its process 1, as this machine sees it."""
        with contextlib.suppress(psutil.Error):
            return next(iter(psutil.Process(self.process.pid).children()), None)
        return None

    @property
    def code(self) -> int | None:
        """Exit status, or None while it runs."""
        return self.process.poll()

    def do(self, command: Sequence[str], limit_s: float = EXEC_LIMIT_S) -> subprocess.CompletedProcess[str]:
        """Do a command inside it, as ``kubectl exec`` does."""
        first = self.first
        assert first is not None, f"{self.container.name} does not run:\n{self.log[-3000:]}"
        return subprocess.run(
            ["nsenter", "-t", str(first.pid), "-m", "-p", "-n", "-i", "-u", f"-r/proc/{first.pid}/root", "sh", "-c"]
            + [f"exec {self._become()}", "sh", *command],
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Tell process 1 to end, as an engine does: SIGKILL when the time is over."""
        if (first := self.first) is not None:
            with contextlib.suppress(psutil.Error):
                first.send_signal(how)
        try:
            self.process.wait(timeout=self.container.grace_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it at once: without its process 1 a namespace has no process."""
        while self.code is None:
            with contextlib.suppress(psutil.Error):
                (self.first or psutil.Process(self.process.pid)).kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=1)

    def start_again(self) -> None:
        """Start it anew, with nothing but what its mounts keep."""
        assert self.code is not None
        self.process = self._start()


def _etc(etc: Path, container: Container) -> None:
    etc.mkdir(parents=True, exist_ok=True)
    (etc / "passwd").write_text(
        f"root:x:0:0::/root:/usr/sbin/nologin\napp:x:{container.image.user}:{container.image.user}::/app:/bin/sh\n"
    )
    (etc / "group").write_text(f"root:x:0:\napp:x:{container.image.user}:\n")
    (etc / "hosts").write_text(f"127.0.0.1 localhost {container.name}\n")
    (etc / "resolv.conf").write_text("nameserver 127.0.0.11\noptions timeout:1\n")
    (etc / "nsswitch.conf").write_text("hosts: files dns\n")


def _script(container: Container, root: Path, programs: Path) -> str:
    """What a runtime does before the process: the image's files, the mounts, the devices, and a root that is closed."""
    lines = [
        "set -e",
        f"hostname {shlex.quote(container.name)}",
        f"mount --bind {root} {root}",
        'at() { if [ -d "$1" ]; then mkdir -p "$2"; else mkdir -p "${2%/*}"; [ -e "$2" ] || : > "$2"; fi; }',
        'bind() { at "$1" "$2"; mount --bind "$1" "$2"; if [ "$3" ]; then mount -o "remount,bind,$3" "$2"; fi; }',
    ]
    closed = [(Path(path), path) for path in SYSTEM if Path(path).exists()]
    closed += [(Path(sys.base_prefix), sys.base_prefix), (Path(sys.prefix), VENV), (programs, f"{VENV}/bin")]
    closed += [(source, target) for target, source in container.image.files.items()]
    lines += [f"bind {source.resolve()} {root}{target} ro" for source, target in closed]
    lines += [
        f"install -d -o {container.image.user} -g {container.image.user} {root}{folder}"
        for folder in container.image.folders
    ]
    lines += [f"mkdir -p {root}{path} && ln -sf {to} {root}{link}" for path, link, to in container.image.links]
    lines += [f"mkdir -p {root}/proc {root}/dev {root}/tmp {root}/run {root}{container.workdir}"]
    lines += [f"mount -t proc proc {root}/proc", f"mount -t tmpfs -o mode=755 tmpfs {root}/dev"]
    lines += [f"bind /dev/{name} {root}/dev/{name} ''" for name in DEVICES]
    lines += [f"ln -s /proc/self/fd {root}/dev/fd"]
    lines += [f"ln -s /proc/self/fd/{i} {root}/dev/{name}" for i, name in enumerate(("stdin", "stdout", "stderr"))]
    lines += [f"mkdir {root}/dev/shm", f"mount -t tmpfs -o mode=1777,{container.shm} tmpfs {root}/dev/shm"]
    for mount in sorted(container.mounts, key=lambda mount: mount.target.count("/")):
        at = shlex.quote(f"{root}{mount.target}")
        if mount.source is None:
            lines += [f"mkdir -p {at}", f"mount -t tmpfs -o {mount.options} tmpfs {at}"]
        else:
            lines.append(f"bind {shlex.quote(str(mount.source))} {at} {'ro' if mount.read_only else chr(39) * 2}")
    if container.read_only:
        lines.append(f"mount -o remount,bind,ro {root}")
    return "\n".join(lines) + "\n"


def until(condition: Callable[[], bool], what: str, limit_s: float) -> None:
    """Wait until ``condition()`` holds; AssertionError after ``limit_s``."""
    until_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < until_s, f"waited {limit_s:.0f} s in vain for {what}"
        time.sleep(0.3)
