"""A SuperExec that forks, so that a node's message finds Python, Flower and torch loaded.

``flower-superexec`` starts a Python for every message, which imports Flower for more than a second of processor time
before it looks at the message. This one has imported everything and forks instead; `hypergpu_fl.node.supernode` runs it
beside a SuperNode with ``--isolation process``:

```
flower-supernode <-- Runtime API, on loopback -- superexec -- fork --> a process a message, as Flower runs it
                                                          -- fork --> the run's worker (hypergpu_fl.node.worker)
```

It has only one thread, since forking would not be safe otherwise, and it keeps no state: it ends with the SuperNode,
and its forks end with it. It reads the SuperNode's secret from standard input.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Final

import httpx

from hypergpu_fl.children import end_with, forget_own_modules, hold_off_signals
from hypergpu_fl.codec.kernels import ready
from hypergpu_fl.node import worker
from strategies.flower_internals import (
    AcquireTaskRequest,
    RuntimeHttpClient,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
    TaskType,
    run_clientapp,
)

POLL_S: Final = 0.25  # 2 ms of processor each
PROTECTED: Final = ("/flwr.proto.Runtime/AcquireTask",)
RETRY_S: Final = 1.0  # while the SuperNode does not answer
# Imported by this app's messages; none of these starts a thread. Another app's messages import the rest themselves.
PRELOADED: Final = ("torch", "numba", "eth_account", "coincurve", "pydantic", "zstandard", "xxhash")
# When memory runs out, the kernel should kill a message or a worker, whose work others will redo.
OOM_SCORE, FIRST_TO_GO = Path("/proc/self/oom_score_adj"), "500"

log = logging.getLogger(__name__)


def serve(address: str, owner: int, secret: bytes) -> None:
    """Launch what the SuperNode at ``address`` has received, message by message, until process ``owner`` has ended.

    ``secret`` proves to the SuperNode that this is its SuperExec.
    """
    client = RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,
        root_certificates=None,
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="SuperExec"),
            SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=PROTECTED),
        ],
    )
    workers: dict[int, int] = {}  # by run: process ids
    while os.getppid() == owner:
        ended = _reap()
        workers = {run: process for run, process in workers.items() if process not in ended}
        try:
            acquired = client.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP]))
        except (httpx.HTTPError, ValueError) as error:  # it is starting or ending, or gives an invalid answer
            log.debug("the SuperNode does not answer: %s", error)
            time.sleep(RETRY_S)
            continue
        if not acquired.token:
            time.sleep(POLL_S)
            continue
        if (run := acquired.task.run_id) not in workers:
            with contextlib.suppress(OSError):  # then the message starts a worker itself, or says why it cannot
                workers[run] = fork_worker(run)
        try:
            _fork(partial(run_clientapp, address, acquired.token, insecure=True, parent_pid=os.getpid()))
        except OSError as error:
            log.warning("a message could not be answered: %s", error)


def preload() -> None:
    """Import what messages need, but not this app's own modules, which each message imports from its run."""
    for name in PRELOADED:
        with contextlib.suppress(ImportError):  # then each message imports it itself, or says why it cannot
            import_module(name)
    forget_own_modules()


def fork_worker(run: int) -> int:
    """Fork the worker of a run, which `worker.ask` will find, and return its process id. May raise OSError."""
    with worker.listen(os.getpid(), run) as listener:
        return _fork(partial(worker.serve, listener, os.getpid()))


def _fork(work: Callable[[], None]) -> int:
    """Fork a child that does ``work`` and ends; return its process id."""
    superexec = os.getpid()
    if child := os.fork():
        return child
    status = 1
    try:
        end_with(superexec)
        with contextlib.suppress(OSError):  # not every system has it; the work does not need it
            OOM_SCORE.write_text(FIRST_TO_GO)
        work()
        status = 0
    except SystemExit as error:  # Flower's way to end
        status = error.code if isinstance(error.code, int) else 1
    except KeyboardInterrupt:  # the whole node is told to end
        pass
    except BaseException:
        log.exception("a forked process failed")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _reap() -> set[int]:
    """Process ids of the children that have ended since the last call."""
    ended = set()
    with contextlib.suppress(ChildProcessError):  # there is no child left
        while child := os.waitpid(-1, os.WNOHANG)[0]:
            ended.add(child)
    return ended


def main(arguments: list[str]) -> None:
    """Run a SuperExec; `hypergpu_fl.node.supernode` gives it its arguments."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("address")
    parser.add_argument("owner", type=int)
    given = parser.parse_args(arguments)
    end_with(given.owner)
    hold_off_signals()
    secret = sys.stdin.buffer.read()
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), sys.stdin.fileno())
    ready.start()
    preload()
    serve(given.address, given.owner, secret)


if __name__ == "__main__":
    main(sys.argv[1:])
