"""What a node is asked to do, in the message that brings it the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, RecordDict

from strategies.wire.blob import BLOB

MODEL: Final = "model"  # ArrayRecord: BLOB
ORDER: Final = "order"  # ConfigRecord: what follows

ROUND: Final = "round"
BASE: Final = "base"
LOCAL_STEPS: Final = "local-steps"
BATCH_SIZE: Final = "batch-size"
CODEC: Final = "codec"
SEED: Final = "seed"
SESSION: Final = "session"
BASE_MODEL: Final = "base-model"
ACK: Final = "ack"
RECEIPT: Final = "receipt"


@dataclass(frozen=True, slots=True)
class Order:
    """What a node is asked to do.

    Attributes
    ----------
    round, base : int
        The round, and the version of the global model that the blob brings the node to.
    base_model : bytes
        32 bytes: hash of the global model of version ``base``.
    local_steps, batch_size, codec, seed
        The work, and the level that its update is compressed at.
    session : bytes
        32 bytes: what contributions are signed for.
    ack : int
        Round whose update of this node was used last; -1: none yet.
    receipt : str
        JSON receipts of earlier, settled contributions; empty: none.
    """

    round: int
    base: int
    base_model: bytes
    local_steps: int
    batch_size: int
    codec: str
    seed: int
    session: bytes
    ack: int
    receipt: str = ""

    def message(self, node_id: int, blob: bytes, *, number: int, ttl_s: float) -> Message:
        """The message to ``node_id`` with the model in ``blob``; ``number`` is what the server knows the order by."""
        fields: dict[str, Any] = {
            ROUND: self.round,
            BASE: self.base,
            LOCAL_STEPS: self.local_steps,
            BATCH_SIZE: self.batch_size,
            CODEC: self.codec,
            SEED: self.seed,
            SESSION: self.session,
            BASE_MODEL: self.base_model,
            ACK: self.ack,
        }
        if self.receipt:
            fields[RECEIPT] = self.receipt
        model = ArrayRecord({BLOB: Array(np.frombuffer(blob, dtype=np.uint8))})
        return Message(
            RecordDict({MODEL: model, ORDER: ConfigRecord(fields)}),
            dst_node_id=node_id,
            message_type=MessageType.TRAIN,
            ttl=ttl_s,
            group_id=str(number),
        )

    @classmethod
    def read(cls, content: RecordDict) -> Order:
        """The order in a message. Raises ``KeyError``, ``TypeError`` or ``ValueError`` for one that is not whole."""
        fields = content.config_records[ORDER]
        return cls(
            round=_whole(fields[ROUND]),
            base=_whole(fields[BASE]),
            base_model=_bytes(fields[BASE_MODEL]),
            local_steps=_whole(fields[LOCAL_STEPS]),
            batch_size=_whole(fields[BATCH_SIZE]),
            codec=str(fields[CODEC]),
            seed=_whole(fields[SEED]),
            session=_bytes(fields[SESSION]),
            ack=_whole(fields[ACK]),
            receipt=str(fields.get(RECEIPT, "")),
        )


def _whole(value: Any) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{value!r} is not a whole number")
    return value


def _bytes(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError(f"{value!r} is not bytes")
    return value
