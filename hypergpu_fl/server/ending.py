"""Keeps a ServerApp alive until Flower has heard how it ended.

Flower 1.41 gives a ServerApp five seconds to upload its last log lines and to report how it ended. It tries the report
once and then ends the process. A SuperLink that is busy or restarting at that moment hears nothing; a minute later it
declares a run with complete books failed, "No heartbeat received from the task".
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Final

import httpx
from flwr.serverapp import Grid

from strategies.flower_internals import (
    EXIT_TIMEOUT,
    SERVERAPP_BEAT,
    SERVERAPP_PUSH,
    HttpGrid,
    PushTaskOutputRequest,
    PushTaskOutputResponse,
    RuntimeHttpClient,
    SendTaskHeartbeatRequest,
    SendTaskHeartbeatResponse,
    SubStatus,
    replace,
    try_for,
)

HEARD_WITHIN_S: Final = 900.0  # longer than a SuperLink takes to restart
LEFT_OVER_S: Final = 5.0  # after that, for the rest of Flower's shutdown


def until_heard(grid: Grid) -> None:
    """Make this process report its end to Flower again and again for ``HEARD_WITHIN_S``, and stay alive meanwhile.

    Does nothing in simulation, where the Grid is no client of a SuperLink.
    """
    if not isinstance(grid, HttpGrid):
        return
    push: Callable[..., PushTaskOutputResponse] = SERVERAPP_PUSH.value()
    beat: Callable[..., SendTaskHeartbeatResponse] = SERVERAPP_BEAT.value()

    def push_until_heard(self: RuntimeHttpClient, request: PushTaskOutputRequest) -> PushTaskOutputResponse:
        try_for(self, HEARD_WITHIN_S)  # Flower has limited it to a single try by now
        try:
            return push(self, request)
        finally:
            code = 0 if request.sub_status == SubStatus.COMPLETED else 1
            rest = threading.Timer(LEFT_OVER_S, os._exit, [code])
            rest.daemon = True
            rest.start()

    def beat_on(self: RuntimeHttpClient, request: SendTaskHeartbeatRequest) -> SendTaskHeartbeatResponse:
        try:
            return beat(self, request)
        except httpx.HTTPStatusError as error:
            if error.response.status_code < 500:
                raise
            # This answer would end Flower's heartbeat thread, and a minute later the run. A TransportError is retried.
            raise httpx.TransportError(str(error)) from error

    replace(SERVERAPP_PUSH, push_until_heard)
    replace(SERVERAPP_BEAT, beat_on)
    replace(EXIT_TIMEOUT, HEARD_WITHIN_S + LEFT_OVER_S)
