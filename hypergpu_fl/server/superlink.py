"""A SuperLink with a SuperExec of ours beside it (`hypergpu_fl.server.superexec`), in one command.

The two share a secret that is made anew at every start, and a run survives the restart of either, or of both.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from importlib import import_module
from typing import Final

from hypergpu_fl.flower_internals import SUPERLINK_SECRET, TASK_PATIENCE, replace
from hypergpu_fl.server.superexec import SECRET_FROM_STDIN
from hypergpu_fl.superexec_secret import OPTION, given_secret

RESTART_S: Final = 3.0
PATIENCE_S: Final = 600  # with a ServerApp whose machine restarts; Flower's own minute is less than that takes
HEARTBEAT_S: Final = 30  # Flower's, of which PATIENCE_S is a multiple

log = logging.getLogger(__name__)


def run(arguments: Sequence[str], *, address: str, tls: Sequence[str]) -> None:
    """Run ``flower-superlink`` with these arguments in this process, for a SuperExec of ours.

    Parameters
    ----------
    address : str
        By which the SuperExec reaches it.
    tls : sequence of str
        The SuperExec's options for that: ``--insecure``, or ``--root-certificates`` and a file.

    Raises
    ------
    UsageError
        If the file of ``--superexec-auth-secret-file`` cannot be read.
    """
    secret = given_secret(arguments)
    sys.argv = ["flower-superlink", *arguments, "--isolation", "process"]
    if secret is None:  # else every user of this machine could take runs, and the model in them
        secret = secrets.token_bytes(32)
        sys.argv += [OPTION, "made at this start"]
    command = import_module("flwr.superlink.cli.flower_superlink")
    replace(SUPERLINK_SECRET, lambda secret_file: secret)
    replace(TASK_PATIENCE, PATIENCE_S // HEARTBEAT_S)
    threading.Thread(target=_keep_superexec, args=(address, tls, secret), daemon=True).start()
    command.flower_superlink()


def _keep_superexec(address: str, tls: Sequence[str], secret: bytes) -> None:
    """Run a SuperExec, and another one whenever it ends: a SuperLink without one starts no run."""
    program = [sys.executable, "-P", "-m", "hypergpu_fl.server.superexec", "--runtime-api-address", address, *tls]
    program += ["--parent-pid", str(os.getpid()), OPTION, SECRET_FROM_STDIN]
    while True:
        with contextlib.suppress(OSError):  # no memory for one just now
            subprocess.run(program, input=secret, check=False)
        time.sleep(RESTART_S)
        log.warning("the SuperExec has ended and is started again")
