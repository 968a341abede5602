"""A simulated node that crashes fails alone."""

from __future__ import annotations

from typing import Any


def renew_dead_actors() -> None:
    """Let a new Ray actor take the place of one that died with the node whose message it answered.

    Flower puts a dead actor back among the others, where it would refuse whichever nodes' messages come next. This
    process is the one that Flower runs both the ServerApp and the simulation in.
    """
    from flwr.simulation.ray_transport.ray_actor import BasicActorPool
    from ray.exceptions import RayActorError

    fetch = BasicActorPool.fetch_result_and_return_actor_to_pool

    def fetch_or_renew(pool: Any, future: Any) -> Any:
        try:
            return fetch(pool, future)
        except RayActorError:
            pool._future_to_actor[future] = pool.create_actor_fn()  # the caller puts that one back
            raise

    BasicActorPool.fetch_result_and_return_actor_to_pool = fetch_or_renew  # type: ignore[method-assign,assignment]
