"""Collects the updates of an open round into one vector as they arrive, and records which nodes sent them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from strategies.model.aggregation import Aggregator
from strategies.model.global_model import GlobalModel
from strategies.model.statistics import Statistics
from strategies.outcome import Accepted, Journey, Ordered, RefusedReply, RoundOutcome
from strategies.reception import Received
from strategies.round.commands import AddUpdate, CloseRound, Refuse, SendOrder
from strategies.round.state import State


@dataclass
class Collecting:
    """The part of an open round that the machine does not hold. Replies are waited for until ``deadline_s``."""

    mean: Aggregator
    statistics: Statistics
    deadline_s: float
    accepted: list[Accepted] = field(default_factory=list)
    refused: list[RefusedReply] = field(default_factory=list)
    ordered: list[Ordered] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)

    def order(self, order: SendOrder, node: str, *, bytes_down: int) -> None:
        """Record work that a node was given."""
        self.ordered.append(Ordered(order.row, node, order.local_steps, order.codec, bytes_down=bytes_down))

    def add(self, command: AddUpdate, received: Received, state: State, *, now_s: float) -> None:
        """Add an update with the weight that the machine gave it."""
        flight, reply, update = received.flight, received.reply, received.update
        if reply is None or update is None or flight.order is None:
            raise RuntimeError(f"there is no update to add for order {command.order}")
        self.mean.add(update, weight=command.weight, steps=command.steps, length=command.length)
        self.statistics.add(update, node=command.row, steps=max(1, flight.order.local_steps))
        self.accepted.append(
            Accepted(
                row=command.row,
                node=state.fleet.names[command.row],
                node_id=flight.node_id,
                round=flight.order.round,
                base=flight.order.base,
                staleness=command.staleness,
                steps=max(1, flight.order.local_steps),
                examples=int(state.fleet.examples[command.row]),
                bytes_up=len(reply.blob),
                weight=command.weight,
                metrics=reply.metrics,
                journey=Journey.of(flight, reply, now_s),
            )
        )

    def refuse(self, command: Refuse, received: Received, node: str, *, round: int, now_s: float) -> None:
        """Record a reply that does not count."""
        journey = Journey.of(received.flight, received.reply, now_s)
        self.refused.append(RefusedReply(command.row, node, round, command.reason, command.detail, journey))

    def outcome(self, command: CloseRound, model: GlobalModel) -> RoundOutcome:
        """The round's outcome, after the model has made its step."""
        return RoundOutcome(
            round=command.round,
            started_s=command.started_s,
            ended_s=command.ended_s,
            selected=command.selected,
            accepted=[replace(a, weight=w) for a, w in zip(self.accepted, command.weights, strict=True)],
            refused=self.refused,
            late=command.late,
            bytes_down=command.bytes_down,
            bytes_up=command.bytes_up,
            base_hash=bytes.fromhex(command.base_model),
            model_hash=bytes.fromhex(command.model),
            average_P=model.average_P,
            buffers=model.buffers,
            rolled_back=command.rolled_back,
            ordered=self.ordered,
            dropped=self.dropped,
            step=model.take_step(),
        )
