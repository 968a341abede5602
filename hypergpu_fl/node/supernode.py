"""A SuperNode that finds its next message sooner, with a SuperExec of ours (`hypergpu_fl.node.superexec`) beside it.

Flower 1.41 waits 3 s between two looks for a message, and half a second between two for a ClientApp's reply. A round
on fast links takes little longer than that, and waits for whoever looks last. Here a wait is a tenth of the time
since the waiting began, from 0.3 s up to Flower's own; so an idle node asks no more often than before.

The two share a secret that is made anew at every start. Told to end, the SuperNode finishes its work first
(`hypergpu_fl.node.draining`).
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from types import SimpleNamespace
from typing import Final

from flwr.supernode import start_client_internal

from hypergpu_fl.flower_internals import SUPERNODE_SECRET, SUPERNODE_TIME, replace
from hypergpu_fl.node.draining import DRAIN_S, Draining
from hypergpu_fl.superexec_secret import OPTION, given_secret

# Options of Flower's that `run` gives, or that are for a SuperExec of one's own.
DECIDED: Final = ("--help", "--version", "--host", "--port", "--isolation", "--ssl-", "--appio-", "--clientappio-")
_COMMAND: Final = "flwr.supernode.cli.flower_supernode"
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


def options() -> Iterator[tuple[str, str]]:
    """Flags and help of those options of ``flower-supernode`` that are not decided here."""
    parser = import_module(_COMMAND)._parse_args_run_supernode()
    formatter = argparse.HelpFormatter(parser.prog)
    for action in parser._actions:
        if action.help not in (None, argparse.SUPPRESS) and not action.option_strings[-1].startswith(DECIDED):
            value = action.metavar or action.dest.upper()
            flags = ", ".join(action.option_strings) + ("" if action.nargs == 0 else f" {value}")
            yield flags, " ".join(formatter._expand_help(action).split())


def run(arguments: Sequence[str], *, host: str, port: int, drain_s: float = DRAIN_S) -> None:
    """Run ``flower-supernode`` with these arguments in this process, its Runtime API at ``host`` and ``port``.

    ``drain_s``: see `Draining`.

    Raises
    ------
    UsageError
        If the file of ``--superexec-auth-secret-file`` cannot be read.
    """
    command = import_module(_COMMAND)
    wait, draining = GrowingWait(time.monotonic, time.sleep), Draining(drain_s)

    def sleep(seconds: float) -> None:
        wait.sleep(seconds)
        draining.hand_back_if_late()

    replace(SUPERNODE_TIME, SimpleNamespace(sleep=sleep))
    draining.join(start_client_internal)
    sys.argv = ["flower-supernode", *arguments, "--host", host, "--port", str(port)]
    if sys.platform == "linux":  # elsewhere forking a process with so much loaded is not safe; Flower starts its own
        secret = given_secret(arguments)
        if secret is None:  # else every user of this machine could take this node's messages, and the model in them
            secret = secrets.token_bytes(32)
            sys.argv += [OPTION, "made at this start"]
        replace(SUPERNODE_SECRET, lambda secret_file: secret)
        sys.argv += ["--isolation", "process"]
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        threading.Thread(target=_keep_superexec, args=(address, secret), daemon=True).start()
    command.flower_supernode()


def _keep_superexec(address: str, secret: bytes) -> None:
    """Run a SuperExec, and another one whenever it ends: a node without one answers nothing."""
    program = [sys.executable, "-P", "-m", "hypergpu_fl.node.superexec", address, str(os.getpid())]
    while True:
        with contextlib.suppress(OSError):  # no memory for one just now
            subprocess.run(program, input=secret, check=False)
        time.sleep(RESTART_S)
        log.warning("the SuperExec has ended and is started again")
