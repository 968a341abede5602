"""Ends the processes of a command that was killed, and removes its scratch folder.

``python -m hypergpu_fl.guard FOLDER`` waits until its standard input ends, which it does however its parent ends. Then
it ends every process whose environment says ``TMPDIR=FOLDER/tmp``: Ray's processes and Flower's simulation have other
parents, or open sessions of their own, and stay in no tree or group. After a regular end there are none left.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Final

import psutil

from hypergpu_fl.children import hold_off_signals

STOP_LIMIT_S: Final = 8.0
PASSES: Final = 3  # a process that is ended may have started another; one that hangs in the kernel cannot be ended
_PREFIX: Final = ".tmp-"  # short, since paths of sockets are


def fresh(run: Path) -> Path:
    """A new scratch folder in this run's folder; those of commands that were killed go.

    It has a name of its own, since the guard of a killed command may still be ending what that one started, while the
    run goes on already.
    """
    for left in run.glob(f"{_PREFIX}*"):
        shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=run))


def temporary_of(folder: Path) -> Path:
    """What ``TMPDIR`` is to the processes of this scratch folder."""
    return folder / "tmp"


def start(folder: Path) -> subprocess.Popen[bytes]:
    """Guard this scratch folder from now on; end the guard by closing its standard input."""
    command = [sys.executable, "-P", "-m", "hypergpu_fl.guard", str(folder)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)


def end(processes: Collection[psutil.Process]) -> None:
    """Ask processes to end, and after some seconds kill those that have not."""
    for process in processes:
        with contextlib.suppress(psutil.Error):  # it has ended by itself
            process.terminate()
    _, stubborn = psutil.wait_procs(processes, timeout=STOP_LIMIT_S)
    for process in stubborn:
        with contextlib.suppress(psutil.Error):  # likewise
            process.kill()
    psutil.wait_procs(stubborn, timeout=STOP_LIMIT_S)


def belonging_to(folder: Path) -> list[psutil.Process]:
    """The processes of a scratch folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # it has ended, or is another user's
            if process.environ().get("TMPDIR") == str(temporary_of(folder)):
                found.append(process)
    return found


def main(folder: Path) -> None:
    """See the module."""
    hold_off_signals()
    with contextlib.suppress(OSError):  # whatever ends the pipe, the command is gone
        sys.stdin.buffer.read()
    for _ in range(PASSES):
        if left := [process for process in belonging_to(folder) if process.pid != os.getpid()]:
            end(left)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
