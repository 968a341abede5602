"""Errors of the strategy engine.

```
StrategyError
├── LayoutError        arrays that do not match the model's layout
├── Refused            one reply that must not count, with its reason; the round goes on
├── UnknownPolicy      no selection policy or aggregation rule of that name
├── NoNodes            nothing to train on
├── OutOfOrder         an event that cannot happen now
├── BadLine            no line of an event log
└── NotWritten         the disk does not take the event log
```
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class StrategyError(Exception):
    """Base of the engine's errors."""


class LayoutError(StrategyError):
    """Arrays do not match the layout they claim to have."""


class NoNodes(StrategyError):
    """No node is known or reachable, so there is nothing to train on."""


class BadLine(StrategyError):
    """Something is no line of an event log."""


class NotWritten(StrategyError):
    """The disk does not take the event log: it is full, or gone. What was synced is still there."""


class OutOfOrder(StrategyError):
    """An event reached the round's machine while it cannot happen."""


class UnknownPolicy(StrategyError):
    """No selection policy or aggregation rule of that name."""


class Reason(StrEnum):
    """Why a reply was refused; the value is what is stored and shown."""

    ERROR_REPLY = "error reply"
    MALFORMED = "malformed"
    NON_FINITE = "non-finite"
    NORM_OUTLIER = "norm outlier"
    WRONG_MODEL = "wrong model"
    UNKNOWN_BASE = "unknown base"
    TOO_LARGE = "too large"
    DUPLICATE = "duplicate"
    BAD_SIGNATURE = "bad signature"
    NOT_ALLOWED = "not allowed"
    TOO_LATE = "too late"
    LEFT = "left"  # no fault of the node's: it, or its machine, goes
    OTHER_TASK = "other task"


FOR_CAUSE: Final = frozenset(
    (Reason.BAD_SIGNATURE, Reason.MALFORMED, Reason.NON_FINITE, Reason.TOO_LARGE, Reason.WRONG_MODEL)
)
"""Reasons that lie in what the node sent, whatever its link, its speed and the others' updates are."""


class Refused(StrategyError):
    """A reply that must not count.

    Parameters
    ----------
    reason : Reason
        The class of refusal, for counters.
    detail : str
        The offending value and the next step.
    """

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = reason
        self.detail = detail
