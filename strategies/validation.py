"""What a reply must be before it may count. Every refusal has a reason; none can stop a round."""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Message
from numpy.typing import NDArray

from strategies import wire
from strategies.aggregation import Update
from strategies.errors import Reason, Refused
from strategies.failure import told
from strategies.flight import has_left
from strategies.layout import Arrays

HISTORY = 64
ENOUGH = 8  # accepted norms before outliers can be told
COLD_FACTOR = 100.0
LARGEST_Z = 6.0
LEAST_SIGMA = 0.25  # of log norm: a run of nearly equal norms must not make an ordinary one look odd
MAD_TO_SIGMA = 1.4826  # of a normal distribution
HEADROOM_BYTES = 65_536  # of a blob over the model's own size: header, buffers, and the container's


@dataclass(frozen=True, slots=True)
class Contents:
    """The readable parts of a reply."""

    blob: bytes
    metrics: Mapping[str, float]
    contribution: Mapping[str, Any]


def read(reply: Message, *, largest_bytes: int) -> Contents:
    """Take a reply apart, copying nothing that is too large.

    Raises
    ------
    Refused
        For an error reply, records that are missing or of the wrong kind, a blob that is not one row of bytes, or
        one larger than ``largest_bytes``.
    """
    if reply.has_error():
        reason = Reason.LEFT if has_left(reply) else Reason.ERROR_REPLY
        raise Refused(reason, told(reply.error.reason or f"code {reply.error.code}", 500))
    content = reply.content
    record = content.array_records.get(wire.UPDATE)
    array = record.get(wire.BLOB) if record is not None else None
    if array is None or record is None:
        raise Refused(Reason.MALFORMED, f"no array {wire.BLOB!r} in record {wire.UPDATE!r}")
    if len(record) > 1:
        raise Refused(Reason.MALFORMED, f"{len(record)} arrays in record {wire.UPDATE!r}, expected {wire.BLOB!r} alone")
    if len(array.data) > largest_bytes + HEADROOM_BYTES:
        raise Refused(Reason.TOO_LARGE, f"{len(array.data)} bytes, at most {largest_bytes + HEADROOM_BYTES} are read")
    return Contents(
        blob=_guarded(lambda: bytes(wire.row_of_bytes(array)), f"array {wire.BLOB!r}"),
        metrics=wire.numbers(content, wire.METRICS),
        contribution=dict(content.config_records.get(wire.CONTRIBUTION, {})),
    )


def decoded(decode: Callable[[bytes], Update], blob: bytes) -> Update:
    """``decode(blob)``, with whatever hostile bytes make a decoder raise turned into a refusal."""
    update: Update = _guarded(lambda: decode(blob), "the blob cannot be decoded")
    return update


def _guarded(act: Callable[[], Any], what: str) -> Any:
    try:
        return act()
    except Refused:
        raise
    except Exception as error:
        raise Refused(Reason.MALFORMED, f"{what}: {type(error).__name__}: {error}"[:500]) from error


class NormHistory:
    """Log norms of the updates accepted lately; robust to a minority of bad ones."""

    def __init__(self) -> None:
        self._logs: deque[float] = deque(maxlen=HISTORY)

    def check(self, norm: float, steps: int, *, model_norm: float) -> None:
        """Refuse a norm whose robust z-score, ``(x - median) / (1.4826 MAD)`` of ``log(norm / sqrt(steps))``, is > 6.

        Only outliers above are refused: a small update does no harm. Until enough norms are known to tell one, an
        update may be a hundred times as long as the model (or as 1, for a model that starts from nothing).
        """
        if len(self._logs) < ENOUGH:
            longest = COLD_FACTOR * max(1.0, model_norm)
            if norm > longest:
                raise Refused(Reason.NORM_OUTLIER, f"norm {norm:.3g}, at first at most {longest:.3g} is taken")
            return
        median = float(np.median(self._logs))
        sigma = max(LEAST_SIGMA, MAD_TO_SIGMA * float(np.median(np.abs(np.asarray(self._logs) - median))))
        if (z := (_log_norm(norm, steps) - median) / sigma) > LARGEST_Z:
            raise Refused(Reason.NORM_OUTLIER, f"norm {norm:.3g} after {steps} steps, z-score {z:.1f} > {LARGEST_Z}")

    def add(self, norm: float, steps: int) -> None:
        """Remember the norm of an update that counted."""
        self._logs.append(_log_norm(norm, steps))

    def state(self) -> list[float]:
        """The remembered logarithms."""
        return list(self._logs)

    def restore(self, state: list[float]) -> None:
        """Inverse of ``state``."""
        self._logs = deque(state, maxlen=HISTORY)


class Replays:
    """Tells a node's update from a copy of its last one: real training never gives the same bytes twice."""

    def __init__(self) -> None:
        self._last: dict[int, tuple[str, int]] = {}

    def check(self, row: int, blob: bytes, norm: float) -> None:
        """Refuse a blob equal to the one accepted last from ``row``; an update of nothing may repeat itself."""
        digest, round = self._last.get(row, ("", 0))
        if norm > 0 and digest == hashlib.sha256(blob).hexdigest():
            raise Refused(Reason.DUPLICATE, f"the same {len(blob)} bytes as in round {round}")

    def add(self, row: int, blob: bytes, round: int) -> None:
        """Remember an update that counted."""
        self._last[row] = hashlib.sha256(blob).hexdigest(), round

    def state(self) -> dict[str, Any]:
        """Digest and round by row."""
        return {str(row): list(last) for row, last in self._last.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Inverse of ``state``."""
        self._last = {int(row): (digest, round) for row, (digest, round) in state.items()}


def check_update(update: Update, *, size: int, buffers: Arrays) -> float:
    """L2 norm of ``update``, refused if it is of another model or not finite."""
    if update.size != size:
        raise Refused(Reason.WRONG_MODEL, f"{update.size} values, the model has {size}")
    check_buffers(update.buffers, buffers)
    if not update.finite():
        raise Refused(Reason.NON_FINITE, "the update holds NaN or infinity; lower the learning rate on that node")
    norm = update.norm()
    if not math.isfinite(norm):
        raise Refused(Reason.NON_FINITE, "the update's norm overflows")
    return norm


def check_buffers(found: Mapping[str, NDArray[Any]], expected: Arrays) -> None:
    """Refuse buffers that the model does not have, or of another shape or dtype."""
    for name, array in found.items():
        if name not in expected:
            raise Refused(Reason.WRONG_MODEL, f"buffer {name!r} is none of {list(expected)}")
        wanted = expected[name]
        if array.shape != wanted.shape or array.dtype != wanted.dtype:
            raise Refused(
                Reason.WRONG_MODEL,
                f"buffer {name!r} is {array.dtype}{list(array.shape)}, expected {wanted.dtype}{list(wanted.shape)}",
            )


def _log_norm(norm: float, steps: int) -> float:
    return math.log(max(norm, 1e-30) / math.sqrt(max(1, steps)))
