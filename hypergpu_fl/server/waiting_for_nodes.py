"""Waiting until the nodes of a run are connected, since Flower starts the ServerApp before they are."""

from __future__ import annotations

import time
from typing import Final

from flwr.serverapp import Grid
from loguru import logger

from hypergpu_fl.errors import NetworkError
from strategies.prose import amount

NODES_WAIT_S: Final = 120.0
SIMULATION_SETTLED_S: Final = 5.0


def wait_for_nodes(grid: Grid, wanted: int, *, simulated: bool) -> int:
    """Wait until ``wanted`` nodes are connected.

    Flower alone decides how many nodes a simulation has; it counts as complete when no node has joined for
    ``SIMULATION_SETTLED_S``. Returns how many nodes the data are split over.
    """
    began_s = grown_s = time.monotonic()
    connected, told = 0, -1
    while connected < wanted:
        now_s = time.monotonic()
        if (seen := len(list(grid.get_node_ids()))) > connected:
            connected, grown_s = seen, now_s
        if not simulated and told < connected < wanted:
            told = connected
            logger.info(
                "{} of {} are connected; the rest have {:.0f} s to come", told, amount(wanted, "node"), NODES_WAIT_S
            )
        if simulated and connected and now_s - grown_s > SIMULATION_SETTLED_S:
            logger.warning(
                "Flower simulates {}, not training.num_nodes = {}; for more: "
                "flwr run . --federation-config num-supernodes={}",
                amount(connected, "node"),
                wanted,
                wanted,
            )
            return connected
        if now_s - began_s > NODES_WAIT_S:
            raise NetworkError(
                f"{connected} of {amount(wanted, 'node')} connected within {NODES_WAIT_S:.0f} s",
                "start more SuperNodes, or lower training.num_nodes",
            )
        time.sleep(0.2)
    return connected if simulated else wanted
