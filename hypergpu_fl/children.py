"""Child processes: ending with their parent, being restarted, and using the modules of the run that they serve."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Final

OWN: Final = ("hypergpu_fl", "strategies")
LOOK_S: Final = 1.0  # for a parent, where the kernel does not tell
RESTART_S: Final = 3.0  # longer than a SuperNode takes to end that is stopped together with its SuperExec
_SET_PARENT_DEATH_SIGNAL: Final = 1  # see prctl(2)

log = logging.getLogger(__name__)


def keep_running(program: Sequence[str], *, given: bytes, name: str, restart_s: float = RESTART_S) -> None:
    """Run a program with ``given`` on its standard input, and again ``restart_s`` seconds after each end of it."""
    threading.Thread(target=_run_for_ever, args=(program, given, name, restart_s), daemon=True).start()


def _run_for_ever(program: Sequence[str], given: bytes, name: str, restart_s: float) -> None:
    while True:
        try:
            subprocess.run(program, input=given, check=False)
            told = "has ended"
        except OSError as error:  # such as too little memory just now
            told = f"could not be started ({error})"
        time.sleep(restart_s)
        log.warning("the %s %s and is started again", name, told)


def end_with(parent: int, by: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel end this process ``by`` a signal when its ``parent`` ends; end at once if it already has.

    This holds across ``exec``. Elsewhere than on Linux, a thread looks for the parent, and ``exec`` ends that thread.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_SET_PARENT_DEATH_SIGNAL, int(by), 0, 0, 0)
    else:
        threading.Thread(target=_look_for, args=(parent, by), daemon=True).start()
    if os.getppid() != parent:
        os._exit(0)


def _look_for(parent: int, by: signal.Signals) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_S)
    os.kill(os.getpid(), by)


def hold_off_signals() -> None:
    """Block the signals that ask to end, since the parent may still need this process to finish its work.

    Service managers and terminals signal every process of a service or of a group.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})


def forget_own_modules() -> None:
    """Remove this app's own modules from memory, so that the run's own version is imported."""
    for name in [name for name in sys.modules if name.partition(".")[0] in OWN]:
        del sys.modules[name]


def free_port() -> int:
    """A port on the loopback interface that nobody listens on now, for a child that will."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
