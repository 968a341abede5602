"""A SuperExec that starts a ServerApp again after it died, or after the SuperExec itself was restarted.

``flower-superexec`` starts a ServerApp once. If it dies, alone or with its SuperExec, Flower misses its heartbeats and
declares the run failed. This SuperExec keeps what the ServerApp was started with in a file until Flower has heard how
it ended (`hypergpu_fl.server.serverapp_process`). Until then, a new process takes the place of one that died, and
continues where the run's books end.

While no ServerApp is at work, one with Flower and torch loaded waits, so that a run begins some seconds sooner.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from hypergpu_fl.children import end_with
from hypergpu_fl.codec.kernels import ready
from hypergpu_fl.config import System, runs_root
from hypergpu_fl.files import private_folder, write_whole
from hypergpu_fl.handshakes import try_broken_ones_again
from strategies.flower_internals import (
    SUPEREXEC_EXECUTOR,
    SUPEREXEC_RETRY,
    SUPEREXEC_SECRET,
    ExecutionSpec,
    LaunchResult,
    SubprocessExecutor,
    TaskType,
    replace,
)

FOLDER: Final = ".serverapps"
MOST_STARTS: Final = 6  # of one ServerApp; after that, Flower declares the run failed
SECRET_FROM_STDIN: Final = "-"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KeptStart:
    """What a ServerApp was started with. The token is valid only while Flower waits for this ServerApp."""

    address: str
    token: str
    insecure: bool
    root_certificates: str | None
    starts: int = 1

    @classmethod
    def read(cls, file: Path) -> KeptStart:
        """Read a file. Raises ``OSError``, ``ValueError`` or ``TypeError`` if it is not one of ours."""
        return cls(**json.loads(file.read_text(encoding="utf-8")))

    def write(self, file: Path) -> None:
        """Inverse of ``read``."""
        write_whole(file, json.dumps(asdict(self)))


@dataclass
class Keeper(SubprocessExecutor):
    """Starts tasks as Flower does, and restarts ServerApps until Flower has heard how they ended.

    Parameters
    ----------
    folder : Path
        Keeps what they were started with; created if missing, for this user alone.
    address : str
        The SuperLink of these ServerApps; the folder may also hold those of another.
    """

    folder: Path
    address: str
    children: dict[Path, subprocess.Popen[bytes]] = field(default_factory=dict)
    waiting: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        private_folder(self.folder)
        self.waiting = _serverapp()

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        """Start a task."""
        if spec.task_type != TaskType.SERVER_APP:
            return super().launch(spec)
        file = self.folder / f"{spec.task_id}.json"
        KeptStart(spec.runtime_api_address, spec.token, spec.insecure, spec.root_certificates_path).write(file)
        self._start(file)
        return LaunchResult.accepted()

    def reconcile(self) -> None:
        """Restart what has died; Flower calls this between two polls for a task."""
        for file in sorted(self.folder.glob("*.json")):
            if (child := self.children.get(file)) is not None and child.poll() is None:
                continue
            try:
                kept = KeptStart.read(file)
            except (OSError, ValueError, TypeError):
                continue  # just removed, since Flower was told; or not one of ours
            if kept.address != self.address:
                continue
            if kept.starts >= MOST_STARTS:
                log.error("the ServerApp of task %s died %d times and is given up", file.stem, kept.starts)
                remove_files(file)
                continue
            KeptStart(**{**asdict(kept), "starts": kept.starts + 1}).write(file)
            log.warning("the ServerApp of task %s has died and is started again", file.stem)
            self._start(file)
        for file in [file for file, child in self.children.items() if child.poll() is not None and not file.exists()]:
            del self.children[file]
        if not self.children and (self.waiting is None or self.waiting.poll() is not None):
            self.waiting = _serverapp()

    def _start(self, file: Path) -> None:
        child = self.waiting if self.waiting is not None and self.waiting.poll() is None else _serverapp()
        self.waiting, self.children[file] = None, child
        assert child.stdin is not None
        with contextlib.suppress(BrokenPipeError), child.stdin:  # it died just now; `reconcile` restarts it
            child.stdin.write(os.fsencode(file))


def _serverapp() -> subprocess.Popen[bytes]:
    """A process that becomes a ServerApp once it is given the path of a kept file."""
    command = [sys.executable, "-P", "-m", "hypergpu_fl.server.serverapp_process", str(os.getpid())]
    return subprocess.Popen(command, stdin=subprocess.PIPE)


def input_of(file: Path) -> Path:
    """Where the input of a kept ServerApp lies; Flower hands it out only once."""
    return file.with_suffix(".input")


def remove_files(file: Path) -> None:
    """Remove the files of a ServerApp that Flower no longer waits for."""
    input_of(file).unlink(missing_ok=True)
    file.unlink(missing_ok=True)


def main(arguments: list[str]) -> None:
    """Run ``flower-superexec`` with these arguments, restarting ServerApps until Flower has heard how they ended.

    With ``--superexec-auth-secret-file -`` the secret is read from standard input.
    """
    from strategies.flower_internals import _parse_args, flower_superexec

    executor, loader = SUPEREXEC_EXECUTOR.value(), SUPEREXEC_SECRET.value()

    def keeper_or(kind: Any, **settings: Any) -> Any:
        if kind != "subprocess":
            return executor(kind, **settings)
        address = _parse_args().parse_args(arguments).runtime_api_address
        return Keeper(runs_root(System()) / FOLDER, address)

    def load(secret_file: str | None) -> bytes | None:
        if secret_file == SECRET_FROM_STDIN:
            return sys.stdin.buffer.read()
        secret: bytes | None = loader(secret_file=secret_file)
        return secret

    replace(SUPEREXEC_EXECUTOR, keeper_or)
    replace(SUPEREXEC_SECRET, load)
    try_broken_ones_again(SUPEREXEC_RETRY)
    sys.argv = ["flower-superexec", *arguments]
    if (parent := _parse_args().parse_args(arguments).parent_pid) is not None:
        end_with(parent)
    ready.start()
    flower_superexec()


if __name__ == "__main__":
    main(sys.argv[1:])
