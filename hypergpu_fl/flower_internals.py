"""What is replaced inside Flower's own processes, because Flower has no option for it.

All of it was read in Flower 1.41.0. A name that another Flower does not have is an error, for to replace it would do
nothing.
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import Any, Final, NamedTuple

from hypergpu_fl.errors import UsageError

READ_IN: Final = "1.41.0"


class Place(NamedTuple):
    """A name in one of Flower's modules."""

    module: str
    name: str


# The loop of a SuperNode sleeps by it between two looks for a message, and uses it for nothing else.
SUPERNODE_TIME: Final = Place("flwr.supernode.start_client_internal", "time")
# What a SuperExec must know; here it is made anew at every start.
SUPERNODE_SECRET: Final = Place("flwr.supernode.cli.flower_supernode", "load_superexec_auth_secret")
SUPERLINK_SECRET: Final = Place("flwr.superlink.cli.flower_superlink", "load_superexec_auth_secret")
SUPEREXEC_SECRET: Final = Place("flwr.supercore.cli.flower_superexec", "load_superexec_auth_secret")
# What starts a ServerApp.
SUPEREXEC_EXECUTOR: Final = Place("flwr.supercore.superexec.run_superexec", "get_executor")
# Heartbeats that a task may miss. The tables of tasks know no other patience; that with nodes is another module's.
TASK_PATIENCE: Final = Place("flwr.supercore.corestate.sql_corestate", "HEARTBEAT_PATIENCE")
# Seconds that a ServerApp has to tell how it ended.
EXIT_TIMEOUT: Final = Place("flwr.supercore.exit.exit", "FORCE_EXIT_TIMEOUT_SECONDS")
REPLACED: Final = (
    SUPERNODE_TIME,
    SUPERNODE_SECRET,
    SUPERLINK_SECRET,
    SUPEREXEC_SECRET,
    SUPEREXEC_EXECUTOR,
    TASK_PATIENCE,
    EXIT_TIMEOUT,
)


def replace(place: Place, value: Any) -> None:
    """Put ``value`` in a place, for this process.

    Raises
    ------
    UsageError
        If this Flower has no such name there.
    """
    names = vars(import_module(place.module))
    if place.name not in names:
        raise UsageError(
            f"Flower {metadata.version('flwr')} has no {place.name} in {place.module}, as {READ_IN} has",
            f"install flwr {READ_IN}",
        )
    names[place.name] = value
