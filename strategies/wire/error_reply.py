"""The reply of a node that failed, or goes."""

from __future__ import annotations

from typing import Final

from flwr.app import Message

from strategies.failure import told
from strategies.wire.domains import LARGEST_REASON

# Code of the error reply by which a node hands its work back because it goes; Flower's own end far below
LEAVING: Final = 1005


def failure_reason(reply: Message) -> str:
    """What an error reply says, short."""
    return told(reply.error.reason or f"code {reply.error.code}", LARGEST_REASON)
