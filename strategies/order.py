"""The message that sets a node to work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, RecordDict

from strategies import wire
from strategies.flight import LONGEST_TTL_S
from strategies.payload import ModelBlob

SHORTEST_TTL_S = 60.0


@dataclass(frozen=True, slots=True)
class Order:
    """What a node is asked to do in a round, and from which model. See ``strategies.wire`` for each entry."""

    round: int
    base: int
    base_model: bytes
    local_steps: int
    batch_size: int
    codec: str
    deadline_s: float
    seed: int
    session: bytes
    ack: int
    enclosed: Mapping[str, str] = field(default_factory=dict)

    def message(self, node_id: int, sent: ModelBlob, *, patience: float) -> Message:
        """The message to ``node_id`` with the model.

        It lives ``patience`` deadlines on the arrivals' clock, within a minute and 12 hours.
        """
        plan = ConfigRecord(
            {
                wire.ROUND: self.round,
                wire.BASE: self.base,
                wire.VIEW: sent.view,
                wire.LOCAL_STEPS: self.local_steps,
                wire.BATCH_SIZE: self.batch_size,
                wire.CODEC: self.codec,
                wire.DEADLINE_S: self.deadline_s,
                wire.SEED: self.seed,
                wire.SESSION: self.session,
                wire.BASE_MODEL: self.base_model,
                wire.ACK: self.ack,
                **self.enclosed,
            }
        )
        model = ArrayRecord({wire.BLOB: Array(np.frombuffer(sent.blob, dtype=np.uint8))})
        return Message(
            RecordDict({wire.MODEL: model, wire.PLAN: plan}),
            dst_node_id=node_id,
            message_type=MessageType.TRAIN,
            ttl=min(LONGEST_TTL_S, max(SHORTEST_TTL_S, patience * self.deadline_s)),
        )
