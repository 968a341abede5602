"""Child processes that end with the one that started them, and leave this app's modules to the run they serve."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

OWN: Final = ("hypergpu_fl", "strategies")
_SET_PARENT_DEATH_SIGNAL: Final = 1  # see prctl(2)


def end_with(parent: int, by: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel end this process ``by`` a signal when its ``parent`` ends, however it does, or end now if it has.

    The program that this process may become next ends so, too. On Linux alone; elsewhere nothing happens.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_SET_PARENT_DEATH_SIGNAL, int(by), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


def hold_off_signals() -> None:
    """Leave the end to the parent, which may have work to finish that needs this process.

    Service managers and terminals signal every process of a service, or of a group.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})


def forget_own_modules() -> None:
    """Forget this app's own modules: those that a run is served by come with the run."""
    for name in [name for name in sys.modules if name.partition(".")[0] in OWN]:
        del sys.modules[name]
