"""What the machine knows. Only ``step`` changes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from strategies.errors import Reason
from strategies.fleet import Fleet
from strategies.planning import FleetPlan
from strategies.round.explosion import HeldOutLoss
from strategies.round.histories import NormHistory, Replays
from strategies.round.rules import Rules
from strategies.round.versions import Versions
from strategies.selection import policy
from strategies.weighting import BOOKS


@dataclass(frozen=True, slots=True)
class OpenOrder:
    """Work that a node was sent and has not answered; ``start`` is the sketch of the model that it starts from."""

    row: int
    round: int
    base: int
    steps: int
    start: tuple[float, ...]


class Phase(StrEnum):
    """What an open round waits for."""

    RESTORING = "restoring"  # the model of an earlier version, before it begins
    COLLECTING = "collecting"  # replies
    STEPPING = "stepping"  # the model's step, or its way back, before it closes


@dataclass
class OpenRound:
    """The open round's tally.

    ``weights`` belong to the updates in ``added``, and are normalised when the round is booked. ``bytes_common`` are
    the bytes of downloads beyond what their levels predict.
    """

    round: int
    started_s: float
    phase: Phase
    plan: FleetPlan | None = None
    base_model: str = ""
    quota: int = 0
    replies: int = 0
    failed: set[int] = field(default_factory=set)  # rows
    selected: list[int] = field(default_factory=list)
    added: list[int] = field(default_factory=list)  # rows
    weights: list[float] = field(default_factory=list)
    stepped: bool = True  # whether the model takes over what ``added`` holds
    refused: list[Reason] = field(default_factory=list)
    late: int = 0
    bytes_down: int = 0
    bytes_common: float = 0.0
    bytes_up: int = 0
    refills: int = 0
    ended_s: float = 0.0
    next_version: int = 0
    rolled_back: int | None = None

    @property
    def wanted(self) -> bool:
        """Whether the round wants more replies. Failures do not fill the quota, but more nodes that fail end it."""
        return self.replies < self.quota and len(self.failed) <= self.quota


class State:
    """Everything known of nodes, debts, versions and the open round, under fixed ``rules``."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.fleet = Fleet()
        self.accounts = BOOKS[rules.books]()
        self.selection = policy(rules.selection)
        self.versions = Versions()
        self.norms = NormHistory()
        self.replays = Replays()
        self.held_out = HeldOutLoss()
        self.unmeasured: list[int] = []  # rows of the updates in the latest version, until its loss is measured
        self.exploded = False
        self.common_bytes = 0.0  # of a download in the last round, beyond what its level predicts
        self.round = 0  # the newest that began
        self.round_s = 0.0  # how long the last round lasted in which an update counted
        self.next_order = 0
        self.orders: dict[int, OpenOrder] = {}
        self.open: OpenRound | None = None

    def usual_round_s(self, at_s: float) -> float:
        """Seconds that a round takes: as the last one in which an update counted, else as the open one took until now.

        Not as the first round is planned: before anything is known of the nodes, that may be a hundred times too long.
        """
        return self.round_s or max(0.0, at_s - self.open.started_s if self.open is not None else 0.0)

    def json(self) -> dict[str, Any]:
        """Everything as JSON-able values, between two rounds."""
        if self.open is not None:
            raise ValueError(f"round {self.open.round} is open; a state is saved between two rounds")
        return {
            "fleet": self.fleet.state(),
            "accounts": self.accounts.state(),
            "selection": self.selection.state(),
            "versions": self.versions.state(),
            "norms": self.norms.state(),
            "replays": self.replays.state(),
            "held_out": self.held_out.state(),
            "unmeasured": list(self.unmeasured),
            "exploded": self.exploded,
            "common_bytes": self.common_bytes,
            "round": self.round,
            "round_s": self.round_s,
            "next_order": self.next_order,
            "orders": {str(number): asdict(order) for number, order in self.orders.items()},
        }

    @classmethod
    def restored(cls, rules: Rules, state: Mapping[str, Any]) -> State:
        """Inverse of ``json``: what follows is exactly what would have followed."""
        restored = cls(rules)
        restored.fleet = Fleet.restored(state["fleet"])
        restored.versions = Versions.restored(state["versions"])
        for name in ("accounts", "selection", "norms", "replays", "held_out"):
            getattr(restored, name).restore(state[name])
        for name in ("exploded", "common_bytes", "round", "round_s", "next_order"):
            setattr(restored, name, state[name])
        restored.unmeasured = list(state["unmeasured"])
        restored.orders = {
            int(number): OpenOrder(**{**order, "start": tuple(order["start"])})
            for number, order in state["orders"].items()
        }
        return restored
