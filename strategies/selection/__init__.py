"""Client-selection policies, one a file, behind one Protocol."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from strategies.errors import UnknownPolicy
from strategies.selection.fedcs import FedCSSelection
from strategies.selection.latency import LatencySelection
from strategies.selection.network_aware import NetworkAwareSelection
from strategies.selection.oort import OortSelection
from strategies.selection.overcommit import OvercommitSelection
from strategies.selection.policy import Selection, SelectionPolicy
from strategies.selection.power_of_choice import PowerOfChoiceSelection
from strategies.selection.pyramid import PyramidSelection
from strategies.selection.random import RandomSelection
from strategies.selection.tifl import TiFLSelection
from strategies.spelling import did_you_mean

__all__ = ["PEERS", "POLICIES", "Selection", "SelectionPolicy", "policy"]

PEERS: Final[dict[str, Callable[..., SelectionPolicy]]] = {
    "random": RandomSelection,
    "overcommit": OvercommitSelection,
    "latency": LatencySelection,
    "oort": OortSelection,
    "pyramid": PyramidSelection,
    "fedcs": FedCSSelection,
    "tifl": TiFLSelection,
    "power_of_choice": PowerOfChoiceSelection,
}
POLICIES: Final[dict[str, Callable[..., SelectionPolicy]]] = {"network_aware": NetworkAwareSelection, **PEERS}


def policy(name: str, **tuning: Any) -> SelectionPolicy:
    """The policy called ``name``; ``tuning`` goes to its constructor.

    Raises
    ------
    UnknownPolicy
        With the names there are, and the nearest.
    """
    if name not in POLICIES:
        raise UnknownPolicy(
            f"no selection policy {name!r}{did_you_mean(name, POLICIES)}; there are {', '.join(POLICIES)}"
        )
    return POLICIES[name](**tuning)
