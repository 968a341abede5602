"""Client-selection policies, one a file, behind one Protocol."""

from __future__ import annotations

import difflib
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
        near = difflib.get_close_matches(name, POLICIES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(POLICIES)}"
        raise UnknownPolicy(f"no selection policy {name!r}; {hint}")
    return POLICIES[name](**tuning)
