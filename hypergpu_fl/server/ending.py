"""Keeps a ServerApp alive until Flower has heard how it ended.

Flower 1.41 gives a ServerApp five seconds to upload its last log lines and to report how it ended. It tries the report
once and then ends the process. A SuperLink that is busy or restarting at that moment hears nothing; a minute later it
declares a run with complete books failed, "No heartbeat received from the task".
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, Final

import httpx
from flwr.serverapp import Grid

from strategies.flower_internals import (
    EXIT_TIMEOUT,
    PushTaskOutputRequest,
    PushTaskOutputResponse,
    SendTaskHeartbeatRequest,
    SendTaskHeartbeatResponse,
    SubStatus,
    replace,
)

HEARD_WITHIN_S: Final = 900.0  # longer than a SuperLink takes to restart
LEFT_OVER_S: Final = 5.0  # after that, for the rest of Flower's shutdown


def until_heard(grid: Grid) -> None:
    """Make this process report its end to Flower again and again for ``HEARD_WITHIN_S``, and stay alive meanwhile.

    Does nothing in simulation, where the Grid is no client of a SuperLink.
    """
    link: Any = grid
    client: Any = getattr(link, "_runtime_client", None)
    if client is None:
        return
    push: Callable[[PushTaskOutputRequest], PushTaskOutputResponse] = client.PushTaskOutput
    beat: Callable[[SendTaskHeartbeatRequest], SendTaskHeartbeatResponse] = client.SendTaskHeartbeat

    def push_until_heard(request: PushTaskOutputRequest) -> PushTaskOutputResponse:
        # Flower has set these to a single try by now.
        link._retry_invoker.max_tries, link._retry_invoker.max_time = None, HEARD_WITHIN_S
        try:
            return push(request)
        finally:
            code = 0 if request.sub_status == SubStatus.COMPLETED else 1
            rest = threading.Timer(LEFT_OVER_S, os._exit, [code])
            rest.daemon = True
            rest.start()

    def beat_on(request: SendTaskHeartbeatRequest) -> SendTaskHeartbeatResponse:
        try:
            return beat(request)
        except httpx.HTTPStatusError as error:
            if error.response.status_code < 500:
                raise
            # This answer would end Flower's heartbeat thread, and a minute later the run. A TransportError is retried.
            raise httpx.TransportError(str(error)) from error

    client.PushTaskOutput, client.SendTaskHeartbeat = push_until_heard, beat_on
    replace(EXIT_TIMEOUT, HEARD_WITHIN_S + LEFT_OVER_S)
