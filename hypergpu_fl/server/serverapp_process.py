"""A ServerApp's process that another process can replace; `hypergpu_fl.server.superexec` starts it.

It differs from ``flwr-serverapp`` in four ways. It imports what a run needs before standard input tells it which run to
serve. It continues with the input that an earlier process was given. It reports no failure when it is merely killed.
And it removes its file once Flower has heard how the ServerApp ended.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from queue import Queue
from typing import Final

import httpx

from hypergpu_fl.children import end_with, forget_own_modules
from hypergpu_fl.files import write_whole
from hypergpu_fl.handshakes import try_broken_ones_again
from hypergpu_fl.server.superexec import KeptStart, input_of, remove_files
from strategies.flower_internals import (
    SERVERAPP_PULL,
    SERVERAPP_PUSH,
    SERVERAPP_RETRY,
    PullTaskInputRequest,
    PullTaskInputResponse,
    PushTaskOutputRequest,
    PushTaskOutputResponse,
    RuntimeHttpClient,
    SendTaskHeartbeatRequest,
    SubStatus,
    mirror_output_to_queue,
    replace,
    restore_output,
    run_serverapp,
    trying_once,
    validate_and_resolve_root_certificates,
)

ENDED_FROM_OUTSIDE: Final = (
    "Task failed with unknown error."  # Flower's words for an app that neither completed nor raised
)


def take_the_place(file: Path) -> None:
    """Make Flower's client continue from ``file`` and the input stored beside it."""
    pull: Callable[..., PullTaskInputResponse] = SERVERAPP_PULL.value()
    push: Callable[..., PushTaskOutputResponse] = SERVERAPP_PUSH.value()

    def pull_or_take(self: RuntimeHttpClient, request: PullTaskInputRequest) -> PullTaskInputResponse:
        kept = input_of(file)
        if kept.exists():
            given: PullTaskInputResponse = PullTaskInputResponse.FromString(kept.read_bytes())
            return given
        response = pull(self, request)
        write_whole(kept, response.SerializeToString())
        return response

    def push_if_ended(self: RuntimeHttpClient, request: PushTaskOutputRequest) -> PushTaskOutputResponse:
        if request.sub_status == SubStatus.FAILED and request.details == ENDED_FROM_OUTSIDE:
            if not awaited(self):
                remove_files(file)
            return PushTaskOutputResponse()  # if it is awaited, another process takes this one's place
        response = push(self, request)
        remove_files(file)
        return response

    replace(SERVERAPP_PULL, pull_or_take)
    replace(SERVERAPP_PUSH, push_if_ended)


def awaited(client: RuntimeHttpClient) -> bool:
    """Whether the SuperLink still waits for this ServerApp: the run was neither stopped nor given up."""
    try:
        with trying_once(client):
            return bool(client.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success)
    except httpx.HTTPStatusError as error:
        return error.response.status_code >= 500
    except (httpx.HTTPError, ValueError):
        return True


def main(arguments: list[str]) -> None:
    """Run a ServerApp."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("parent", type=int)
    end_with(parser.parse_args(arguments).parent)
    with contextlib.suppress(Exception):  # warms up imports; errors appear when the run's own modules load
        import_module("hypergpu_fl.server.server_app")
    if not (told := sys.stdin.buffer.read()):
        return
    file = Path(os.fsdecode(told))
    kept = KeptStart.read(file)
    lines: Queue[str | None] = Queue()
    mirror_output_to_queue(lines)
    take_the_place(file)
    try_broken_ones_again(SERVERAPP_RETRY)
    forget_own_modules()
    run_serverapp(
        runtime_api_address=kept.address,
        log_queue=lines,
        token=kept.token,
        insecure=kept.insecure,
        certificates=validate_and_resolve_root_certificates(kept.root_certificates, kept.insecure),
    )
    restore_output()


if __name__ == "__main__":
    main(sys.argv[1:])
