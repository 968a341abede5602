"""Our own SuperLink for one simulated run, which ends with the run together with every process that it started.

Flower would start a SuperLink itself, detached and never stopped, with its files in the home folder. This one belongs
to the run: its state and Ray's files are in the run's folder, and all its other files are below the root of the runs.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

import psutil

from hypergpu_fl import guard
from hypergpu_fl.children import end_with
from hypergpu_fl.codec.kernels import CACHES, user_caches
from hypergpu_fl.errors import RunFailed, ServerDied, UsageError
from hypergpu_fl.files import private_folder
from hypergpu_fl.proxies import beside_loopback
from strategies.failure import root_cause

_LEFT_OUT: Final = ("PYTHONDONTWRITEBYTECODE", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_NAMESPACE")
_SAID_LIMIT: Final = 16_384  # bytes of what it said last
START_LIMIT_S: Final = 60.0
# Ray's sockets are at <RAY_TMPDIR>/ray/session_<date>_<time>_<pid>/sockets/plasma_store, and a socket's path may have
# 107 bytes (103 on macOS).
_RAY_PREFIX_LIMIT: Final = 103 - len("/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.1")


def require_free(
    port: int, host: str = "127.0.0.1", *, remedy: str = "give another --port, or none for a free one"
) -> int:
    """Return ``port`` if nobody listens on it at ``host``.

    Raises
    ------
    UsageError
        If it is in use, reserved, or no port number, or ``host`` is not this machine's.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not between 0 and 65535"
            where = "" if host == "127.0.0.1" else f" at {host}"
            raise UsageError(f"port {port}{where} cannot be used: {reason}", remedy) from None
    return port


def flower_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """``environ`` with this interpreter's programs first, and Flower kept from calling home or installing.

    Traffic on the loopback interface goes through no proxy, and no Ray cluster of this machine is used. Bytecode is
    written even if ``PYTHONDONTWRITEBYTECODE`` forbids it: otherwise a Python that starts for every message would spend
    half its time compiling its imports.
    """
    programs = str(Path(sys.executable).parent)
    kept = {name: value for name, value in environ.items() if name not in _LEFT_OUT}
    return (
        kept
        | beside_loopback(environ)
        | {
            "PATH": os.pathsep.join([programs, environ.get("PATH", os.defpath)]),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        }
    )


class LocalSuperLink:
    """SuperLink in simulation mode on the loopback interface; a context manager.

    Parameters
    ----------
    folder : Path
        Folder of its and Ray's scratch files, created on entry and removed on exit.
    root : Path
        Root of the runs. Flower's home and the caches are there and shared by all runs, because an app that is unpacked
        again for each run would also be compiled again.
    log : Path
        Its log file, which is kept.
    port : int
        Its port.
    environ : Mapping[str, str]
        Environment of the SuperLink and of everything it starts.
    """

    def __init__(self, folder: Path, root: Path, log: Path, port: int, environ: Mapping[str, str]) -> None:
        self.port = port
        self._folder, self._root, self._log, self._environ = folder, root, log, environ
        self._sessions: set[int] = set()
        self._said = b""
        self._exits = contextlib.ExitStack()
        self.environ: dict[str, str] = {}

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            private_folder(self._folder)
            undo.callback(shutil.rmtree, self._folder, ignore_errors=True)
            undo.enter_context(_guarded(self._folder))
            ray = undo.enter_context(_short_path(_made(self._folder / "ray")))
            self.environ = self._own_environment(ray)
            self._process = subprocess.Popen(
                [
                    *(str(Path(sys.executable).with_name("flower-superlink")), "--insecure", "--simulation"),
                    *("--host", "127.0.0.1", "--port", str(self.port), "--log-file", str(self._log)),
                    "--disable-runtime-dependency-installation",
                ],
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C reaches us alone, and we stop the rest in order
                preexec_fn=partial(end_with, os.getpid(), signal.SIGTERM),  # in case we are killed
            )
            threading.Thread(target=self._keep_said, args=(self._process.stderr,), daemon=True).start()
            undo.callback(self._stop)
            self._wait_until_healthy()
            self._exits = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        self._exits.close()

    def simulations(self) -> int:
        """Number of living simulation processes; call it regularly, because it also notes which processes to stop."""
        return sum(_runs(process, "flwr-simulation") for process in self._descendants())

    def is_alive(self) -> bool:
        """Whether the SuperLink itself still runs."""
        return self._process.poll() is None

    def require_alive(self) -> None:
        """Check that what starts the run's processes still runs: the SuperLink, and its SuperExec.

        The SuperLink starts its SuperExec before it answers, and does not look after it.

        Raises
        ------
        ServerDied
            If one has ended, with what it said last.
        """
        if self.is_alive() and any(_runs(process, "flower-superexec") for process in self._descendants()):
            return
        cause, _ = root_cause(self._said.decode("utf-8", "replace")) or ("", "")
        ended = "SuperExec" if self.is_alive() else "SuperLink"
        raise ServerDied(": ".join(filter(None, (f"Flower's {ended} ended before the run", cause))), self._see_log())

    def _keep_said(self, errors: IO[bytes]) -> None:
        """Keep the end of what it and its children write to standard error: a line may be long, and a run, too."""
        with errors:
            while said := os.read(errors.fileno(), _SAID_LIMIT):
                self._said = (self._said + said)[-_SAID_LIMIT:]

    def _own_environment(self, ray: str) -> dict[str, str]:
        cache = str(_made(self._root / ".cache"))
        caches = user_caches(self._environ)
        return flower_environment(self._environ) | {
            CACHES: str(caches or ""),  # kernels are compiled once a machine, not once for each folder of runs
            "FLWR_HOME": str(_made(self._root / ".flower")),
            "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(self.port),
            "RAY_TMPDIR": ray,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            "TMPDIR": str(_made(guard.temporary_of(self._folder))),
            "XDG_CACHE_HOME": cache,
            "HF_HOME": str(Path(cache) / "huggingface"),
            "MPLCONFIGDIR": str(Path(cache) / "matplotlib"),
            "TORCHINDUCTOR_CACHE_DIR": str(Path(cache) / "inductor"),
            "TRITON_CACHE_DIR": str(Path(cache) / "triton"),
        }

    def _wait_until_healthy(self) -> None:
        deadline_s = time.monotonic() + START_LIMIT_S
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while time.monotonic() < deadline_s:
            if not self.is_alive():
                raise RunFailed(
                    f"Flower's SuperLink ended while starting (code {self._process.returncode})", self._see_log()
                )
            # OSError covers refused connections and HTTP errors while it starts
            with (
                contextlib.suppress(OSError),
                direct.open(f"http://127.0.0.1:{self.port}/health", timeout=1),
            ):
                return
            time.sleep(0.1)
        raise RunFailed(f"Flower's SuperLink did not answer within {START_LIMIT_S:.0f} s", self._see_log())

    def _see_log(self) -> str:
        return f"see {self._log}"

    def _descendants(self) -> list[psutil.Process]:
        try:
            below: list[psutil.Process] = psutil.Process(self._process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            below = []
        for process in below:
            with contextlib.suppress(OSError):  # it has just ended
                self._sessions.add(os.getsid(process.pid))
        return below

    def _stop(self) -> None:
        """End the SuperLink and every process in the sessions that it and its children opened.

        ``flwr stop`` leaves ClientApps at work, and Ray's processes lose their parent when the driver dies. But a
        process stays in its session unless it opens a new one, so sessions show processes that the tree of parents has
        lost.
        """
        own = self._sessions | {self._process.pid}
        below = {process.pid: process for process in self._descendants()}
        own |= self._sessions
        for process in psutil.process_iter():
            with contextlib.suppress(OSError):  # likewise
                if os.getsid(process.pid) in own:
                    below[process.pid] = process
        below.pop(os.getpid(), None)
        guard.end(below.values())
        self._process.wait()


@contextlib.contextmanager
def _guarded(folder: Path) -> Iterator[None]:
    """End what was started in a scratch folder even if this process is killed."""
    with guard.start(folder):  # closes its standard input and waits for it
        yield


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _runs(process: psutil.Process, program: str) -> bool:
    """Whether a process runs one of Flower's programs; one that has ended and was not waited for has no command."""
    try:
        return any(word.endswith(program) for word in process.cmdline()[:2])
    except psutil.Error:
        return False


@contextlib.contextmanager
def _short_path(folder: Path) -> Iterator[str]:
    """A path to ``folder`` that is short enough for the sockets below it.

    On Linux an open descriptor of the folder gives one, ``/proc/<pid>/fd/<n>``, as long as this process lives.
    Elsewhere a temporary folder with a short path takes the place of a folder with a long path.
    """
    if len(os.fsencode(folder)) <= _RAY_PREFIX_LIMIT:
        yield str(folder)
    elif sys.platform == "linux":
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield f"/proc/{os.getpid()}/fd/{descriptor}"
        finally:
            os.close(descriptor)
    else:
        with tempfile.TemporaryDirectory(prefix="hg-", dir="/tmp", ignore_cleanup_errors=True) as short:
            yield short
