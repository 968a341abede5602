"""A local anvil node in Monad's shape: a block each 0.3 s, final two blocks later, state kept in a file."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final

from hypergpu_fl.chain.errors import Unavailable
from hypergpu_fl.chain.http import HttpChain
from hypergpu_fl.children import end_with, free_port
from hypergpu_fl.errors import ChainError, UsageError

CHAIN_ID: Final = 31337
MONAD_SHAPE: Final = ("--slots-in-an-epoch", "1", "--block-time", "0.3")
# Anvil writes the states of all blocks but the newest 1,500 to ~/.foundry/anvil/tmp, up to gigabytes a chain, and
# leaves them there. Nobody here asks for the state of an old block: books are checked by logs and receipts.
_FORGET_OLD_STATES: Final = ("--prune-history", "256")

FUNDED_SECRET: Final = bytes.fromhex("ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80")
"""Key of anvil's first account, known to everyone."""

_START_S: Final = 15.0


def find_anvil(search: Sequence[Path] = ()) -> Path:
    """Path of the anvil binary: from npm's packages under `search`, else from PATH.

    The package's own Node wrapper is skipped, because we could not signal anvil through it.

    Raises
    ------
    ChainError
        If there is none.
    """
    for folder in search:
        for binary in sorted(folder.glob("node_modules/@foundry-rs/anvil-*/bin/anvil*")):
            return binary
    if found := shutil.which("anvil"):
        return Path(found)
    raise ChainError("anvil is not installed", "run `npm ci` in contracts/, or install Foundry")


def check_port(port: int) -> None:
    """Refuse a port that is in use, or that does not exist.

    Raises
    ------
    UsageError
        If it cannot be bound.
    """
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
    except (OSError, OverflowError) as error:
        raise UsageError(f"port {port} cannot be used: {error}", "choose another with --port") from None


class Anvil:
    """A running anvil, which ends with the ``with`` block.

    Parameters
    ----------
    binary : Path
        The anvil binary.
    port : int
        Port on 127.0.0.1; 0 takes a free one.
    shape : Sequence[str]
        Options that shape its blocks.
    state : Path | None
        File to load state from and keep it in.
    """

    def __init__(
        self,
        binary: Path,
        *,
        port: int = 0,
        shape: Sequence[str] = MONAD_SHAPE,
        state: Path | None = None,
    ) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        command = [str(binary), "--port", str(self.port), "--chain-id", str(CHAIN_ID), "--silent"]
        command += [*_FORGET_OLD_STATES, *shape]
        if state is not None:
            command += ["--state", str(state), "--state-interval", "1"]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=partial(end_with, os.getpid(), signal.SIGTERM),  # in case we are killed
        )

    def wait_until_ready(self) -> None:
        """Wait for the first answer.

        Raises
        ------
        ChainError
            If it ends, or does not answer for 15 s.
        """
        client, deadline = HttpChain([self.url], timeout_s=1.0), time.monotonic() + _START_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise ChainError(
                    f"anvil ended with status {self.process.returncode}", f"is port {self.port} in use? choose another"
                )
            try:
                client.chain_id()
            except Unavailable:
                time.sleep(0.02)
            else:
                return
        raise ChainError(f"anvil does not answer on port {self.port}", "look at the machine's load, and try again")

    def __enter__(self) -> Anvil:
        """Wait until it answers."""
        try:
            self.wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Stop it."""
        self.stop()

    def stop(self) -> None:
        """Ask anvil to end, so that it writes its state; kill it if it does not."""
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
