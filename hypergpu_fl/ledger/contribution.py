"""What a node signs, and what the coordinator seals of it.

A node signs a `Contribution` (EIP-712). The coordinator adds weight, score and reward, which nobody else signs, and
seals the `SealedContribution` as one leaf of the round's Merkle tree. Addresses are EIP-55 strings; hashes are 32
bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from hypergpu_fl.keccak import address_word, keccak

WEIGHT_UNIT: Final = 10**9
"""A weight of 1 (the whole mean) as the integer that is sealed."""

_DOMAIN_TYPE: Final = b"EIP712Domain(string name,string version)"
_CONTRIBUTION_TYPE: Final = (
    b"Contribution(bytes32 session,uint64 round,bytes32 baseModel,bytes32 updateHash,uint64 examples,"
    b"bytes32 metricsHash)"
)
_CONTRIBUTION_TYPEHASH: Final = keccak(_CONTRIBUTION_TYPE)
_ENROLMENT_TYPEHASH: Final = keccak(b"Enrolment(bytes32 session,uint64 node,uint64 share)")
# No chainId and verifyingContract here: the session id is a hash over chain, contract and coordinator already,
# and a node that is handed only a session id has nothing else to check them against.
_DOMAIN_SEPARATOR: Final = keccak(keccak(_DOMAIN_TYPE) + keccak(b"HyperGPU") + keccak(b"1"))


def typed_digest(struct: bytes) -> bytes:
    """EIP-712 digest of an encoded struct: ``keccak(0x1901 || domainSeparator || keccak(struct))``."""
    return keccak(b"\x19\x01" + _DOMAIN_SEPARATOR + keccak(struct))


def enrolment_digest(session: bytes, node_id: int, share: int) -> bytes:
    """EIP-712 digest that a node signs to enrol with its key's address in a run.

    It is bound to the run by ``session`` (32 bytes) and to the connection by Flower's ``node_id``. So nobody can send
    it again from another connection, or for another share of the data.
    """
    return typed_digest(_ENROLMENT_TYPEHASH + session + word(node_id) + word(share))


def word(value: int) -> bytes:
    """ABI encoding of an integer: 32 bytes, big-endian, a negative one as its two's complement."""
    return (value % 2**256).to_bytes(32, "big")


def hash_blob(blob: bytes | memoryview) -> bytes:
    """SHA-256 of an update's or a model's bytes: `updateHash`, `baseModel`."""
    return hashlib.sha256(blob).digest()


def hash_metrics(metrics: Mapping[str, int | float]) -> bytes:
    """Keccak-256 of the metrics as JSON with sorted keys: `metricsHash`."""
    return keccak(json.dumps(dict(metrics), sort_keys=True, separators=(",", ":")).encode())


@dataclass(frozen=True, slots=True)
class Contribution:
    """One node's claim to have trained one update, as it is signed.

    Parameters
    ----------
    session : bytes
        Session id, 32 bytes; binds chain, contract and coordinator.
    round : int
        The round the node worked for; a late update may be sealed in a later one.
    base_model : bytes
        Hash of the model the update starts from.
    update_hash : bytes
        Hash of the update blob.
    examples : int
        Examples the node says it holds.
    metrics_hash : bytes
        `hash_metrics` of what the node reports.
    """

    session: bytes
    round: int
    base_model: bytes
    update_hash: bytes
    examples: int
    metrics_hash: bytes

    def digest(self) -> bytes:
        """EIP-712 digest of the fields."""
        return typed_digest(
            _CONTRIBUTION_TYPEHASH
            + self.session
            + word(self.round)
            + self.base_model
            + self.update_hash
            + word(self.examples)
            + self.metrics_hash
        )


@dataclass(frozen=True, slots=True)
class CreditedContribution:
    """A verified contribution with the coordinator's weight and score.

    Parameters
    ----------
    contribution : Contribution
        What the node signed.
    node : str
        EIP-55 address of the signer.
    signature : bytes
        65 bytes: r, s, v (27 or 28).
    weight : int
        Normalised weight in the round's mean, in parts per `WEIGHT_UNIT`.
    score : int
        What the update was worth, in the unit of the scoring; may be negative. Rewards follow from the scores so far,
        see `hypergpu_fl.ledger.rewards`.
    duplicate_of : str
        Node whose update this one nearly equals; empty if there is none. Reported, not sealed.
    """

    contribution: Contribution
    node: str
    signature: bytes
    weight: int
    score: int
    duplicate_of: str = ""


@dataclass(frozen=True, slots=True)
class SealedContribution:
    """One leaf of a round's tree: a credited contribution, its place and its reward in wei."""

    index: int
    credited: CreditedContribution
    reward: int

    @classmethod
    def of_fields(cls, session: bytes, found: Any) -> SealedContribution:
        """The contribution that a row of the books or a record of the bundle describes, whose names are the same."""
        signed = Contribution(
            session, found.round, found.base_model, found.update_hash, found.examples, found.metrics_hash
        )
        credited = CreditedContribution(
            signed, found.node, found.signature, found.weight, found.score, found.duplicate_of
        )
        return cls(found.index, credited, found.reward)

    def fields(self) -> dict[str, Any]:
        """What `of_fields` reads."""
        credited, signed = self.credited, self.credited.contribution
        return dict(
            index=self.index,
            round=signed.round,
            node=credited.node,
            base_model=signed.base_model,
            update_hash=signed.update_hash,
            examples=signed.examples,
            metrics_hash=signed.metrics_hash,
            weight=credited.weight,
            score=credited.score,
            reward=self.reward,
            signature=credited.signature,
            duplicate_of=credited.duplicate_of,
        )

    def leaf(self) -> bytes:
        """OpenZeppelin `standard-v1` leaf: ``keccak(keccak(abi.encode(fields)))``.

        The fields are those of the contract's ``Contribution`` struct, in its order.
        """
        signed = self.credited.contribution
        encoded = (
            signed.session
            + word(signed.round)
            + word(self.index)
            + address_word(self.credited.node)
            + signed.base_model
            + signed.update_hash
            + word(signed.examples)
            + signed.metrics_hash
            + word(self.credited.weight)
            + word(self.credited.score)
            + word(self.reward)
        )
        return keccak(keccak(encoded))


def log_leaf(session: bytes, round: int, head: bytes) -> bytes:
    """Leaf that seals the event log beside a round's contributions.

    It is ``keccak(keccak(abi.encode(session, round, head)))``, where ``head`` is the hash of the round's last line in
    the log. A contribution's leaf is made of eleven words, so neither kind of leaf can pass for the other.
    """
    return keccak(keccak(session + word(round) + head))


def reward_leaf(session: bytes, account: str, amount: int) -> bytes:
    """Leaf of a round's reward tree: ``keccak(keccak(abi.encode(session, account, amount)))``."""
    return keccak(keccak(session + address_word(account) + word(amount)))
