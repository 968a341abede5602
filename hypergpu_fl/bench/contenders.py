"""The policies that race against one another, each as its authors describe it.

All share model, data, local optimiser, learning rate, batch size, server optimiser and seed. Peers send plain fp32 both
ways, make the baseline's local steps unless their own idea says otherwise, and weight their means by examples.
`random_codec` and `fedbuff_averaged` each have one part of ours, so that planning takes no credit for what compression
or averaging alone would achieve. An ablation is our strategy with one part replaced by the baseline's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from strategies import lineup
from strategies.planning import Compression
from strategies.round.rules import Rules
from strategies.settings import Settings

OURS = "network_aware"
REFERENCE = "random"  # uniform sampling, waiting for everybody: unbiased FedAvg
ONE_CODEC = "top32"  # the level of `random_codec`


@dataclass(frozen=True)
class Contender:
    """A policy, its ``changes`` to the shared settings, and for ours the planner and books it is made of."""

    name: str
    selection: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    planner: str = "progress"
    books: str = "debts"
    is_peer: bool = True

    def rules(self, shared: Settings, *, model_values: int, levels: Sequence[Compression]) -> Rules:
        """What the contender is run by; ``shared`` are the settings that all contenders have in common."""
        settings = replace(shared, **self.changes)
        if self.is_peer:
            return lineup.rules(self.selection, settings, model_values=model_values, levels=levels)
        return Rules(settings, model_values, tuple(levels), self.selection, self.planner, self.books)


SYNC = {"mode": "sync"}
BUFFERED = {"mode": "async", "quota": 1.0}
# The server steps after five updates instead of ten: steps come twice as often, and five nodes still average out most
# of the noise.
OWN = {"mode": "async", "quota": 0.5, "averaging": True}


def _named(*contenders: Contender) -> dict[str, Contender]:
    return {contender.name: contender for contender in contenders}


CONTENDERS: Mapping[str, Contender] = _named(
    Contender(OURS, OURS, OWN, is_peer=False),
    Contender(REFERENCE, "random", SYNC),
    Contender("random_codec", "random", {**SYNC, "codec": ONE_CODEC}),
    Contender("overcommit", "overcommit", SYNC),
    Contender("latency", "latency", SYNC),
    Contender("oort", "oort", SYNC),
    Contender("pyramid", "pyramid", SYNC),
    Contender("fedcs", "fedcs", SYNC),
    Contender("tifl", "tifl", SYNC),
    Contender("power_of_choice", "power_of_choice", SYNC),
    Contender("fedbuff", "random", BUFFERED),
    Contender("fedbuff_averaged", "random", {**BUFFERED, "averaging": True}),
)

ABLATIONS: Mapping[str, Contender] = _named(
    Contender("network_aware-selection", "random", OWN, is_peer=False),
    Contender("network_aware-steps", OURS, OWN, planner="alike", is_peer=False),
    Contender("network_aware-codec", OURS, {**OWN, "codec": "raw"}, is_peer=False),
    Contender("network_aware-asynchrony", OURS, {**OWN, "mode": "sync", "quota": 1.0}, is_peer=False),
    Contender("network_aware-averaging", OURS, {**OWN, "averaging": False}, is_peer=False),
    Contender("network_aware-correction", OURS, OWN, books="examples", is_peer=False),
)
