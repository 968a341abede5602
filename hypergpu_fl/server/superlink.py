"""A SuperLink with a SuperExec of ours beside it (`hypergpu_fl.server.superexec`), in one command.

The two share a secret, see `hypergpu_fl.superexec_secret`. A run survives the restart of either, or of both.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final

from hypergpu_fl.children import keep_running
from hypergpu_fl.server.superexec import SECRET_FROM_STDIN
from hypergpu_fl.superexec_secret import OPTION, shared_secret
from strategies.flower_internals import SUPERLINK_SECRET, TASK_PATIENCE, replace

PATIENCE_S: Final = 600  # with a ServerApp whose machine restarts, which takes longer than Flower's own minute
HEARTBEAT_S: Final = 30  # Flower's, of which PATIENCE_S is a multiple


def run(arguments: Sequence[str], *, address: str, tls: Sequence[str]) -> None:
    """Run ``flower-superlink`` with these arguments in this process, for a SuperExec of ours.

    Parameters
    ----------
    address : str
        At which the SuperExec reaches the SuperLink.
    tls : sequence of str
        The SuperExec's options for that: ``--insecure``, or ``--root-certificates`` and a file.

    Raises
    ------
    UsageError
        If the file of ``--superexec-auth-secret-file`` cannot be read.
    """
    from strategies.flower_internals import flower_superlink

    secret, option = shared_secret(arguments)
    sys.argv = ["flower-superlink", *arguments, *option, "--isolation", "process"]
    replace(SUPERLINK_SECRET, lambda secret_file: secret)
    replace(TASK_PATIENCE, PATIENCE_S // HEARTBEAT_S)
    program = [sys.executable, "-P", "-m", "hypergpu_fl.server.superexec", "--runtime-api-address", address, *tls]
    program += ["--parent-pid", str(os.getpid()), OPTION, SECRET_FROM_STDIN]
    keep_running(program, given=secret, name="SuperExec")
    flower_superlink()
