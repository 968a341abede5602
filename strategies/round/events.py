"""The events of a round. Seconds are on the run's clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from strategies.errors import Reason
from strategies.fleet.link import LinkSample


@dataclass(frozen=True, slots=True)
class ReplyFault:
    """Why a reply must not count, found before the machine was asked."""

    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class Reading:
    """What could be read of a reply; ``None`` where nothing was measured or said.

    Attributes
    ----------
    blob_bytes : int
        Of the update.
    digest : str
        SHA-256 of the update's bytes, in hex.
    norm : float, optional
        L2 norm of the update, where it could be decoded.
    elapsed_s, bytes_down, bytes_up, rtt_s, download_s, upload_s : float
        What the server measured: the whole round trip, its payloads and its parts.
    compute_s : float, optional
        Seconds of work: measured on a virtual clock, else as the node says.
    probe : LinkSample
        What the node measured of its link.
    samples, loss, squared_loss : float, optional
        What the node says of its work.
    sketch : tuple of float
        A few numbers that identify the update's values, see ``strategies.model.sketch``.
    """

    blob_bytes: int
    digest: str
    elapsed_s: float
    bytes_down: float
    bytes_up: float
    norm: float | None = None
    rtt_s: float | None = None
    download_s: float | None = None
    upload_s: float | None = None
    compute_s: float | None = None
    probe: LinkSample = LinkSample()
    samples: float | None = None
    loss: float | None = None
    squared_loss: float | None = None
    sketch: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Joined:
    """A node said who it is: new, or back."""

    at_s: float
    name: str
    examples: int
    kind: Literal["joined"] = "joined"


@dataclass(frozen=True, slots=True)
class Left:
    """These nodes are no longer connected, or must say who they are before they may be given work."""

    at_s: float
    rows: tuple[int, ...]
    kind: Literal["left"] = "left"


@dataclass(frozen=True, slots=True)
class Returned:
    """These nodes are connected again."""

    at_s: float
    rows: tuple[int, ...]
    kind: Literal["returned"] = "returned"


@dataclass(frozen=True, slots=True)
class Deserted:
    """No node is left that could be given work."""

    at_s: float
    kind: Literal["deserted"] = "deserted"


@dataclass(frozen=True, slots=True)
class Probed:
    """A link was measured by a probe alone, without work."""

    at_s: float
    row: int
    sample: LinkSample
    kind: Literal["probed"] = "probed"


@dataclass(frozen=True, slots=True)
class RoundDue:
    """Round ``number`` shall begin: the name that the round has in logs."""

    at_s: float
    number: int
    kind: Literal["round due"] = "round due"


@dataclass(frozen=True, slots=True)
class Sent:
    """These orders went out; ``bytes`` are the sizes of their models."""

    at_s: float
    orders: tuple[int, ...]
    bytes: tuple[int, ...]
    kind: Literal["sent"] = "sent"


@dataclass(frozen=True, slots=True)
class Answered:
    """An order was answered. Without a ``reading`` nothing of the reply could be read."""

    at_s: float
    order: int
    reading: Reading | None = None
    fault: ReplyFault | None = None
    kind: Literal["answered"] = "answered"


@dataclass(frozen=True, slots=True)
class Failed:
    """An order will not be answered: the node, its link or its work failed, or the node has ``left``."""

    at_s: float
    order: int
    detail: str
    left: bool = False
    kind: Literal["failed"] = "failed"


@dataclass(frozen=True, slots=True)
class Ended:
    """The round ended: by its quota, its deadline, or for lack of nodes. Orders ``given_up`` will not be answered."""

    at_s: float
    given_up: tuple[int, ...] = ()
    kind: Literal["ended"] = "ended"


@dataclass(frozen=True, slots=True)
class Published:
    """A model to train from next: the first one, the result of a step, or the last good one restored.

    ``model`` is its hash in hex, ``norm`` its L2 norm; ``sketch`` tells where it lies, see ``strategies.model.sketch``.
    """

    at_s: float
    model: str
    norm: float
    sketch: tuple[float, ...]
    kind: Literal["published"] = "published"


@dataclass(frozen=True, slots=True)
class Diverged:
    """The commanded step gave values that are not finite; the model is unchanged."""

    at_s: float
    kind: Literal["diverged"] = "diverged"


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The server measured the model; ``None`` for a loss that is not finite, or a model that cannot be measured.

    Before the first round it is the fresh model's loss, which is what chance gives.
    """

    at_s: float
    loss: float | None = None
    kind: Literal["evaluated"] = "evaluated"


@dataclass(frozen=True, slots=True)
class Measured:
    """The server measured the updates of an exploded step; ``None`` for a loss that is not finite.

    ``alone`` are the losses with each update alone, in the order in which they were added. ``without`` are pairs: how
    many of the worst updates were left out, and the loss that the others make. Both are empty if nobody can measure.
    """

    at_s: float
    alone: tuple[float | None, ...] = ()
    without: tuple[tuple[int, float | None], ...] = ()
    kind: Literal["measured"] = "measured"


@dataclass(frozen=True, slots=True)
class Resumed:
    """The server was started again with this state. Without ``in_flight``, work that was under way is lost.

    With ``model_lost`` the latest version can no longer be read, and the next round begins with a roll-back.
    """

    at_s: float
    in_flight: bool
    model_lost: bool = False
    kind: Literal["resumed"] = "resumed"


Event = (
    Joined
    | Left
    | Returned
    | Deserted
    | Probed
    | RoundDue
    | Sent
    | Answered
    | Failed
    | Ended
    | Published
    | Diverged
    | Evaluated
    | Measured
    | Resumed
)
