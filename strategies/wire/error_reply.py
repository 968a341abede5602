"""The reply of a node that failed or is leaving."""

from __future__ import annotations

from typing import Final

from flwr.app import Message

from strategies.failure import told
from strategies.wire.domains import LARGEST_REASON, encodable

# Error code with which a leaving node hands its work back; Flower's own codes are far smaller.
LEAVING: Final = 1005


def failure_reason(reply: Message) -> str:
    """What an error reply says, short."""
    return encodable(told(reply.error.reason or f"code {reply.error.code}", LARGEST_REASON))
