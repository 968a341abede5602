"""The strategy that a policy's name stands for: ours with planner and books, a peer as its authors describe it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from strategies.layout import Layout
from strategies.network_aware import NetworkAware
from strategies.payload import Payload
from strategies.planning import plan, plan_alike
from strategies.round import RoundHook
from strategies.selection import PEERS, policy
from strategies.server_optimizer import ServerOptimizer
from strategies.settings import Settings
from strategies.weighting import Accounts, ExampleAccounts


def peer_settings(settings: Settings, payload: Payload) -> Settings:
    """What a peer is run with: one codec for all, plain means, no planning.

    A synchronous peer waits for its whole cohort, or for as many of more as it says itself, and drops what comes
    later. An asynchronous one keeps stale updates, discounted: random selection is FedBuff then.
    """
    codec = payload.levels[0].name if settings.codec == "auto" else settings.codec
    synchronous = settings.mode == "sync"
    return replace(
        settings,
        quota=1.0 if synchronous else settings.quota,
        codec=codec,
        downlink_codec=codec if settings.downlink_codec == "auto" else settings.downlink_codec,
        normalise_steps=False,
        keep_late=not synchronous,
    )


def strategy(
    name: str,
    *,
    layout: Layout,
    payload: Payload,
    optimizer: ServerOptimizer,
    settings: Settings,
    hooks: Sequence[RoundHook] = (),
) -> NetworkAware:
    """The strategy for ``network.policy = name``. Raises ``UnknownPolicy`` for a name there is not."""
    peer = name in PEERS
    return NetworkAware(
        layout=layout,
        payload=payload,
        selection=policy(name),
        optimizer=optimizer,
        settings=peer_settings(settings, payload) if peer else replace(settings, averaging=True),
        hooks=hooks,
        planner=plan_alike if peer else plan,
        accounts=ExampleAccounts() if peer else Accounts(),
    )
