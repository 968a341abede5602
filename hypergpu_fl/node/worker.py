"""A process that persists between messages, so that a node loads torch, its kernels and its data once per run.

Flower starts a Python process for every message, which imports everything, answers and ends. `ask` passes the message
to a worker instead, which the first message starts and later ones find by its socket:

```
flwr-clientapp (a message) -- ask --> worker (a run): the same ClientApp, still warm
```

The socket is a file in a folder that nobody but this user may enter. A worker ends with the SuperExec it belongs to,
or when no message has come for ``IDLE_S``, which frees its GPU memory. `superexec` starts workers before the first
message.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import logging
import os
import socket
import sys
import tempfile
import threading
import time
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from stat import S_ISDIR
from typing import Final

import psutil
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from hypergpu_fl.errors import WorkerFailed
from strategies.flower_internals import Context as ContextProto
from strategies.flower_internals import Message as MessageProto
from strategies.flower_internals import context_from_proto, context_to_proto, message_from_proto, message_to_proto

IDLE_S: Final = 300.0
OWNER_CHECK_S: Final = 0.5
BACKLOG: Final = 8
PROTOCOL: Final = 1  # part of a socket's name, since a SuperExec may be of another release than the app it serves

log = logging.getLogger(__name__)


def ask(reference: str, message: Message, context: Context, *, owner: int, idle_s: float = IDLE_S) -> Message:
    """Let a ClientApp answer a message in this run's worker, which is started if there is none.

    Parameters
    ----------
    reference : str
        The ClientApp, as ``"module:name"``.
    context : Context
        Its ``state`` is replaced by the one that the ClientApp left.
    owner : int
        Process id of the worker's owner: when it ends, so does the worker.
    idle_s : float
        How long a worker waits for the next message.

    Raises
    ------
    WorkerFailed
        If the ClientApp raised, or the worker died over this message.
    OSError
        If no worker can be reached or started here.
    """
    try:
        with _connected(owner, context.run_id, idle_s) as channel:
            # Flower has put the app's folder on this process's path.
            channel.send_bytes(json.dumps({"app": reference, "path": sys.path}).encode())
            channel.send_bytes(message_to_proto(message).SerializeToString())
            channel.send_bytes(context_to_proto(context).SerializeToString())
            if failure := channel.recv_bytes():
                raise WorkerFailed(failure.decode(errors="replace"))
            reply = message_from_proto(MessageProto.FromString(channel.recv_bytes()))
            context.state = context_from_proto(ContextProto.FromString(channel.recv_bytes())).state
    except (EOFError, ConnectionError) as error:
        remedy = "see the SuperNode's log, and whether memory ran out"
        raise WorkerFailed("the worker process ended before it had answered", remedy) from error
    return reply


def listen(owner: int, run: int) -> socket.socket:
    """The socket of a run's worker. It listens from now on, so that no message has to wait for the worker to start."""
    path = _path(owner, run)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(path))
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def serve(listener: socket.socket, owner: int, idle_s: float = IDLE_S) -> None:
    """Answer one message after another until none has come for ``idle_s`` seconds, or ``owner`` has ended."""
    path = Path(listener.getsockname())
    threading.Thread(target=_end_with, args=(owner, path), daemon=True).start()
    listener.settimeout(idle_s)
    with contextlib.suppress(TimeoutError):  # nothing has come for ``idle_s``
        while True:
            _answer(listener.accept()[0])
    path.unlink(missing_ok=True)  # new messages start another worker; those already queued are still answered
    listener.settimeout(0)
    with contextlib.suppress(BlockingIOError):  # nothing is queued any more
        while True:
            _answer(listener.accept()[0])


def _answer(accepted: socket.socket) -> None:
    # An asker that is gone awaits no answer.
    with contextlib.suppress(EOFError, OSError), Connection(accepted.detach()) as channel:
        channel.send_bytes(b"")  # taken up
        wanted = json.loads(channel.recv_bytes())
        message = message_from_proto(MessageProto.FromString(channel.recv_bytes()))
        context = context_from_proto(ContextProto.FromString(channel.recv_bytes()))
        try:
            reply = _load(wanted["app"], wanted["path"])(message, context)
        except Exception as error:  # whatever a ClientApp may raise
            log.exception("the ClientApp raised")
            notes = getattr(error, "__notes__", [])  # where our own errors keep their remedy
            channel.send_bytes("\n".join([f"{type(error).__name__}: {error}", *notes]).encode())
            return
        channel.send_bytes(b"")
        channel.send_bytes(message_to_proto(reply).SerializeToString())
        channel.send_bytes(context_to_proto(context).SerializeToString())


def _load(reference: str, path: list[str]) -> ClientApp:
    sys.path[:] = path
    module, _, name = reference.partition(":")
    app: ClientApp = getattr(import_module(module), name)
    return app


def _connected(owner: int, run: int, idle_s: float) -> Connection:
    """A connection that a worker has accepted; a worker that is just ending is replaced."""
    path = _path(owner, run)
    lock = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two messages at once start one worker
        with contextlib.suppress(FileNotFoundError, ConnectionError, EOFError):  # none is there, or it just ended
            return _taken_up(path)
        with listen(owner, run) as listener:
            _start(listener, owner, idle_s)
        return _taken_up(path)
    finally:
        os.close(lock)


def _taken_up(path: Path) -> Connection:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        channel = Connection(client.detach())
    try:
        channel.recv_bytes()
    except BaseException:
        channel.close()
        raise
    return channel


def _start(listener: socket.socket, owner: int, idle_s: float) -> None:
    listener.set_inheritable(True)
    # Not by ``subprocess``, which expects the parent to wait for the child.
    os.posix_spawn(
        sys.executable,
        [sys.executable, "-P", "-m", __name__]
        + ["--listener", str(listener.fileno()), "--owner", str(owner), "--idle", str(idle_s)],
        {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)],
    )


def _path(owner: int, run: int) -> Path:
    return _private_folder() / f"{owner}-{run}.v{PROTOCOL}"


def _private_folder() -> Path:
    """The folder for sockets below the system's temporary folder. Raises OSError if another user could enter it."""
    folder = Path(tempfile.gettempdir()) / f"hypergpu-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(f"{folder} is open to others")
    return folder


def _end_with(owner: int, path: Path) -> None:
    with contextlib.suppress(psutil.Error):  # it has ended already
        process = psutil.Process(owner)
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(OWNER_CHECK_S)
    path.unlink(missing_ok=True)
    os._exit(0)  # another thread may still be training, for a result that nobody awaits


def main(arguments: list[str]) -> None:
    """Run a worker; `ask` gives it its arguments."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--listener", type=int)
    parser.add_argument("--owner", type=int)
    parser.add_argument("--idle", type=float)
    given = parser.parse_args(arguments)
    # Ctrl-C goes to the whole process group; the one that started this worker tells of it.
    with contextlib.suppress(KeyboardInterrupt), socket.socket(fileno=given.listener) as listener:
        serve(listener, given.owner, given.idle)


if __name__ == "__main__":
    main(sys.argv[1:])
