"""What is replaced inside Flower's own processes, its simulation included, because Flower has no option for it.

The names are those of Flower 1.41.0. If another Flower lacks one, that is an error, since replacing it would do
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


# A SuperNode's loop uses it only to sleep between two polls for a message.
SUPERNODE_TIME: Final = Place("flwr.supernode.start_client_internal", "time")
# Loads the secret that a SuperExec must know; ours comes from `hypergpu_fl.superexec_secret`.
SUPERNODE_SECRET: Final = Place("flwr.supernode.cli.flower_supernode", "load_superexec_auth_secret")
SUPERLINK_SECRET: Final = Place("flwr.superlink.cli.flower_superlink", "load_superexec_auth_secret")
SUPEREXEC_SECRET: Final = Place("flwr.supercore.cli.flower_superexec", "load_superexec_auth_secret")
# Starts a ServerApp.
SUPEREXEC_EXECUTOR: Final = Place("flwr.supercore.superexec.run_superexec", "get_executor")
# Make what decides whether a connection is tried again: a SuperNode's, a SuperExec's and a ServerApp's.
SUPERNODE_RETRY: Final = Place("flwr.supernode.fleet_http_connection", "make_simple_http_retry_invoker")
SUPEREXEC_RETRY: Final = Place("flwr.supercore.superexec.run_superexec", "make_simple_http_retry_invoker")
SERVERAPP_RETRY: Final = Place("flwr.superlink.grid.http_grid", "make_simple_http_retry_invoker")
# Signs a SuperNode's requests with the time.
SUPERNODE_SIGNER: Final = Place("flwr.supernode.fleet_http_connection", "NodeAuthHttpInterceptor")
# Heartbeats that a task may miss. This module has no other patience; the one with nodes is in another module.
TASK_PATIENCE: Final = Place("flwr.supercore.corestate.sql_corestate", "HEARTBEAT_PATIENCE")
# Seconds that a ServerApp has to report how it ended.
EXIT_TIMEOUT: Final = Place("flwr.supercore.exit.exit", "FORCE_EXIT_TIMEOUT_SECONDS")
REPLACED: Final = (
    SUPERNODE_TIME,
    SUPERNODE_SECRET,
    SUPERLINK_SECRET,
    SUPEREXEC_SECRET,
    SUPEREXEC_EXECUTOR,
    SUPERNODE_RETRY,
    SUPERNODE_SIGNER,
    SUPEREXEC_RETRY,
    SERVERAPP_RETRY,
    TASK_PATIENCE,
    EXIT_TIMEOUT,
)
# The simulation's pool of Ray actors: waits for a node's answer, and puts its actor back.
FETCH: Final = "fetch_result_and_return_actor_to_pool"


def replace(place: Place, value: Any) -> None:
    """Put ``value`` in a place, for this process.

    Raises
    ------
    UsageError
        If this Flower has no such name there.
    """
    names = vars(import_module(place.module))
    if place.name not in names:
        raise _missing(place.name, place.module)
    names[place.name] = value


def renew_dead_actors() -> None:
    """Let a new Ray actor take the place of one that died with the node whose message it answered.

    Flower puts a dead actor back among the others, where it would refuse whichever nodes' messages come next. This
    process is the one that Flower runs both the ServerApp and the simulation in.

    Raises
    ------
    UsageError
        If this Flower's pool of actors is another one.
    """
    from flwr.simulation.ray_transport.ray_actor import BasicActorPool
    from ray.exceptions import RayActorError

    fetch = getattr(BasicActorPool, FETCH, None)
    if fetch is None:
        raise _missing(FETCH, BasicActorPool.__qualname__)

    def fetch_or_renew(pool: Any, future: Any) -> Any:
        try:
            return fetch(pool, future)
        except RayActorError:
            pool._future_to_actor[future] = pool.create_actor_fn()  # the caller puts that one back
            raise

    setattr(BasicActorPool, FETCH, fetch_or_renew)


def _missing(name: str, place: str) -> UsageError:
    return UsageError(
        f"Flower {metadata.version('flwr')} has no {name} in {place}, as {READ_IN} has", f"install flwr {READ_IN}"
    )
