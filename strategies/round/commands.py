"""The machine's commands, to be carried out in the order given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from strategies.errors import Reason


@dataclass(frozen=True, slots=True)
class Open:
    """Wait for replies until the machine wants no more of them, ``deadline_s`` at most (``None``: for ever)."""

    round: int
    deadline_s: float | None = None
    kind: Literal["open"] = "open"


@dataclass(frozen=True, slots=True)
class SendOrder:
    """Send a node work. ``held`` is the version it is known to hold, ``downlink`` the level for sending the model."""

    order: int
    row: int
    round: int
    base: int
    local_steps: int
    batch_size: int
    codec: str
    downlink: str
    held: int
    ack: int
    ttl_s: float
    kind: Literal["send"] = "send"


@dataclass(frozen=True, slots=True)
class AddUpdate:
    """Add this much of the update's length to the round's mean with this weight, normalised by ``steps``."""

    order: int
    row: int
    weight: float
    steps: int
    length: float
    staleness: int
    kind: Literal["add"] = "add"


@dataclass(frozen=True, slots=True)
class Refuse:
    """Discard a reply; it does not count."""

    order: int
    row: int
    reason: Reason
    detail: str
    kind: Literal["refuse"] = "refuse"


@dataclass(frozen=True, slots=True)
class Exclude:
    """Send a node no work and no query until ``until_s``."""

    row: int
    until_s: float
    kind: Literal["exclude"] = "exclude"


@dataclass(frozen=True, slots=True)
class Readmit:
    """Ask a node who it is; after its answer it may be given work again."""

    row: int
    kind: Literal["readmit"] = "readmit"


@dataclass(frozen=True, slots=True)
class StepModel:
    """Move the model by the round's mean, which makes ``version``."""

    version: int
    kind: Literal["step"] = "step"


@dataclass(frozen=True, slots=True)
class MeasureSuspects:
    """Find out, by the held-out loss, which of the updates in the last step exploded the model."""

    kind: Literal["measure"] = "measure"


@dataclass(frozen=True, slots=True)
class KeepBest:
    """Keep the latest version, which has the least held-out loss so far, to go back to."""

    version: int
    kind: Literal["keep"] = "keep"


@dataclass(frozen=True, slots=True)
class RollBack:
    """Restore version ``to``, which is kept, as the new ``version``."""

    to: int
    version: int
    kind: Literal["roll back"] = "roll back"


@dataclass(frozen=True, slots=True)
class CloseRound:
    """The round is over. ``weights`` sum to 1 and belong to the updates that were added, in that order."""

    round: int
    started_s: float
    ended_s: float
    selected: tuple[int, ...]
    weights: tuple[float, ...]
    late: int
    bytes_down: int
    bytes_up: int
    base_model: str
    model: str
    rolled_back: int | None = None
    kind: Literal["close"] = "close"


Command = (
    Open
    | SendOrder
    | AddUpdate
    | Refuse
    | Exclude
    | Readmit
    | StepModel
    | MeasureSuspects
    | KeepBest
    | RollBack
    | CloseRound
)
