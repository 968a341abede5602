"""A SuperNode that finds its next message sooner, with a SuperExec of ours (`hypergpu_fl.node.superexec`) beside it.

Flower 1.41 waits 3 s between two looks for a message, and half a second between two for a ClientApp's reply. A round
on fast links takes little longer than that, and waits for whoever looks last. Here a wait is a tenth of the time
since the waiting began, from 0.3 s up to Flower's own; so an idle node asks no more often than before.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Final

from flwr.supernode import start_client_internal
from flwr.supernode.cli import flower_supernode

LEAST_S: Final = 0.3
SHARE: Final = 0.1
RESTART_S: Final = 3.0  # longer than a SuperNode that was stopped together with its SuperExec takes to end

log = logging.getLogger(__name__)


class GrowingWait:
    """Sleeps for a share of the time since the first of a row of equal waits, and never longer than is asked."""

    def __init__(self, clock: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self._clock = clock
        self._sleep = sleep
        self._asked_s = 0.0
        self._since_s = 0.0

    def sleep(self, seconds: float) -> None:
        """Wait at most ``seconds``; another figure than the last one's begins a new row."""
        now_s = self._clock()
        if seconds != self._asked_s:
            self._asked_s, self._since_s = seconds, now_s
        self._sleep(min(seconds, max(LEAST_S, SHARE * (now_s - self._since_s))))


def run(arguments: Sequence[str], *, host: str, port: int) -> None:
    """Run ``flower-supernode`` with these arguments in this process, its Runtime API at ``host`` and ``port``."""
    # Flower has no option for it; the module uses its ``time`` for nothing else.
    vars(start_client_internal)["time"] = SimpleNamespace(sleep=GrowingWait(time.monotonic, time.sleep).sleep)
    sys.argv = ["flower-supernode", *arguments, "--host", host, "--port", str(port)]
    if sys.platform == "linux":  # elsewhere forking a process with so much loaded is not safe; Flower starts its own
        sys.argv += ["--isolation", "process"]
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        threading.Thread(target=_keep_superexec, args=(address,), daemon=True).start()
    flower_supernode()


def _keep_superexec(address: str) -> None:
    """Run a SuperExec, and another one whenever it ends: a node without one answers nothing."""
    command = [sys.executable, "-P", "-m", "hypergpu_fl.node.superexec", address, str(os.getpid())]
    while True:
        with contextlib.suppress(OSError):  # no memory for one just now
            subprocess.run(command, stdin=subprocess.DEVNULL, check=False)
        time.sleep(RESTART_S)
        log.warning("the SuperExec has ended and is started again")
