"""A SuperNode that polls for messages sooner, with a SuperExec of ours (`hypergpu_fl.node.superexec`) beside it.

Flower 1.41 waits 3 s between two polls for a message, and 0.5 s between two polls for a ClientApp's reply. A round on
fast links takes little longer than that, and waits for the node that polls last. Here each wait is a tenth of the time
since the waiting began, at least 0.3 s and at most Flower's own, so an idle node polls no more often than before.

The two share a secret, see `hypergpu_fl.superexec_secret`. When it is told to end, the SuperNode finishes its work
first (`hypergpu_fl.node.draining`).
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Final

from hypergpu_fl.children import keep_running
from hypergpu_fl.handshakes import try_broken_ones_again
from hypergpu_fl.node.draining import DRAIN_S, Draining
from hypergpu_fl.node.wrong_clock import tell_wrong_clocks
from hypergpu_fl.superexec_secret import shared_secret
from strategies.flower_internals import (
    SUPERNODE_RETRY,
    SUPERNODE_SECRET,
    SUPERNODE_SIGNER,
    SUPERNODE_TIME,
    ExitCode,
    flwr_exit,
    replace,
)

# Flower's options that `run` sets itself, or that are for a user's own SuperExec.
DECIDED: Final = ("--help", "--version", "--host", "--port", "--isolation", "--ssl-", "--appio-", "--clientappio-")
LEAST_S: Final = 0.3
SHARE: Final = 0.1

log = logging.getLogger(__name__)


class GrowingWait:
    """Sleeps for a share of the time since the first in a row of equal waits, and never longer than asked."""

    def __init__(self, clock: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self._clock = clock
        self._sleep = sleep
        self._asked_s = 0.0
        self._since_s = 0.0

    def sleep(self, seconds: float) -> None:
        """Wait at most ``seconds``; a value different from the last one begins a new row."""
        now_s = self._clock()
        if seconds != self._asked_s:
            self._asked_s, self._since_s = seconds, now_s
        self._sleep(min(seconds, max(LEAST_S, SHARE * (now_s - self._since_s))))


def options() -> Iterator[tuple[str, str]]:
    """Flags and help of those options of ``flower-supernode`` that are not decided here."""
    from strategies.flower_internals import _parse_args_run_supernode

    parser = _parse_args_run_supernode()
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
    from strategies.flower_internals import flower_supernode

    wait, draining = GrowingWait(time.monotonic, time.sleep), Draining(drain_s)

    def sleep(seconds: float) -> None:
        wait.sleep(seconds)
        draining.hand_back_if_late()

    replace(SUPERNODE_TIME, SimpleNamespace(sleep=sleep))
    try_broken_ones_again(SUPERNODE_RETRY)
    tell_wrong_clocks(SUPERNODE_SIGNER)
    draining.join()
    sys.argv = ["flower-supernode", *arguments, "--host", host, "--port", str(port)]
    if (
        sys.platform == "linux"
    ):  # elsewhere it is not safe to fork a process with so much loaded, so Flower starts its own
        secret, option = shared_secret(arguments)
        replace(SUPERNODE_SECRET, lambda secret_file: secret)
        sys.argv += [*option, "--isolation", "process"]
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        program = [sys.executable, "-P", "-m", "hypergpu_fl.node.superexec", address, str(os.getpid())]
        keep_running(program, given=secret, name="SuperExec")
    try:
        flower_supernode()
    except Exception:
        log.exception("the SuperNode failed")
    # Flower returns when it gives a connection up. Its Runtime API would go on, and look healthy.
    flwr_exit(ExitCode.SUPERNODE_CONNECTION_ERROR, "The connection to the SuperLink is given up; see above for why.")
