"""What each policy's rounds are made of: ours with planner and books, a peer's as its authors describe them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from strategies.engine import Engine
from strategies.model.layout import Layout
from strategies.model.payload import Payload
from strategies.model.server_optimizer import ServerOptimizer
from strategies.outcome import Attendant
from strategies.planning import Compression
from strategies.round.rules import Rules
from strategies.selection import PEERS, policy
from strategies.settings import Settings


def peer_settings(settings: Settings, levels: Sequence[Compression]) -> Settings:
    """The settings of a peer: one codec for all nodes, plain means, no planning.

    A synchronous peer waits for its whole cohort, or for the number of replies that its policy names, and drops later
    ones. An asynchronous peer keeps stale updates at a discount; random selection then is FedBuff.
    """
    codec = levels[0].name if settings.codec == "auto" else settings.codec
    synchronous = settings.mode == "sync"
    return replace(
        settings,
        quota=1.0 if synchronous else settings.quota,
        codec=codec,
        downlink_codec=codec if settings.downlink_codec == "auto" else settings.downlink_codec,
        normalise_steps=False,
        keep_late=not synchronous,
    )


def rules(name: str, settings: Settings, *, model_values: int, levels: Sequence[Compression]) -> Rules:
    """The rules for ``network.policy = name``. Raises ``UnknownPolicy`` for a name there is not."""
    policy(name)
    peer = name in PEERS
    return Rules(
        settings=peer_settings(settings, levels) if peer else replace(settings, averaging=True),
        model_values=model_values,
        levels=tuple(levels),
        selection=name,
        planner="alike" if peer else "progress",
        books="examples" if peer else "debts",
    )


def strategy(
    name: str,
    *,
    layout: Layout,
    payload: Payload,
    optimizer: ServerOptimizer,
    settings: Settings,
    attendant: Attendant[Any] | None = None,
) -> Engine:
    """The strategy for ``network.policy = name``. Raises ``UnknownPolicy`` for a name there is not."""
    made_of = rules(name, settings, model_values=layout.size, levels=payload.levels)
    return Engine(made_of, layout=layout, payload=payload, optimizer=optimizer, attendant=attendant)
