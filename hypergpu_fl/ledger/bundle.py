"""`ledger.json`: everything a stranger needs to check a run without trusting who wrote it.

Hashes, signatures and raw transactions are lower-case hex with ``0x``, addresses EIP-55, amounts in wei as decimal
strings. One spelling for each value: a file with any byte changed either says something else or is refused.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError

from hypergpu_fl.errors import LedgerError, VerificationError
from hypergpu_fl.keccak import checksum_address, keccak
from hypergpu_fl.ledger.contribution import Contribution, CreditedContribution, SealedContribution, address_word, word
from hypergpu_fl.ledger.merkle import MerkleTree
from hypergpu_fl.ledger.sealing import SealedRound


def _unhex(value: Any) -> Any:
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str) or not value.startswith("0x"):
        raise ValueError("not a 0x-prefixed hexadecimal string")
    raw = bytes.fromhex(value[2:])
    if value[2:] != raw.hex():
        raise ValueError("hexadecimal digits must be lower-case, without blanks")
    return raw


def _undecimal(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if not isinstance(value, str) or len(value) > 78 or not value.isascii() or not value.isdigit():
        raise ValueError("not a decimal string")
    if value != "0" and value[0] == "0":
        raise ValueError("leading zeros")
    return int(value)


def _checksummed(value: Any) -> Any:
    if not isinstance(value, str) or len(value) != 42 or checksum_address(bytes.fromhex(value[2:])) != value:
        raise ValueError("not an EIP-55 address")
    return value


_as_hex = PlainSerializer(lambda value: "0x" + value.hex(), return_type=str)
Data = Annotated[bytes, BeforeValidator(_unhex), _as_hex]
Hash = Annotated[bytes, BeforeValidator(_unhex), Field(min_length=32, max_length=32), _as_hex]
Signature = Annotated[bytes, BeforeValidator(_unhex), Field(min_length=65, max_length=65), _as_hex]
Amount = Annotated[int, BeforeValidator(_undecimal), Field(ge=0, lt=2**256), PlainSerializer(str, return_type=str)]
Address = Annotated[str, BeforeValidator(_checksummed)]
U64 = Annotated[int, Field(ge=0, lt=2**64, strict=True)]
U32 = Annotated[int, Field(ge=0, lt=2**32, strict=True)]


class Record(BaseModel):
    """Base of the bundle's records: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SessionRecord(Record):
    """Where the rounds were committed, by whom, and what a round shares out."""

    id: Hash
    salt: Hash
    chain_id: U64
    contract: Address
    coordinator: Address
    budget: Amount
    simulated_keys: bool

    def expected_id(self) -> bytes:
        """Compute the contract's ``sessionId``: ``keccak(abi.encode(chainid, contract, coordinator, salt))``."""
        return session_id(self.chain_id, self.contract, self.coordinator, self.salt)


class ContributionRecord(Record):
    """One leaf with its fields, proof and signature."""

    index: U32
    round: U64
    node: Address
    base_model: Hash
    update_hash: Hash
    examples: U64
    metrics_hash: Hash
    weight: U64
    score: Amount
    reward: Amount
    signature: Signature
    leaf: Hash
    proof: list[Hash]
    duplicate_of: str

    def sealed(self, session: bytes) -> SealedContribution:
        """Make the contribution that these fields describe."""
        signed = Contribution(session, self.round, self.base_model, self.update_hash, self.examples, self.metrics_hash)
        credited = CreditedContribution(signed, self.node, self.signature, self.weight, self.score, self.duplicate_of)
        return SealedContribution(self.index, credited, self.reward)


class RefusalRecord(Record):
    """A reply that did not count; the coordinator's word, not sealed."""

    node: str
    reason: str
    detail: str


class TransactionRecord(Record):
    """A signed transaction and what became of it."""

    purpose: Literal["deploy", "open", "fund", "commit"]
    hash: Hash
    raw: Data
    state: Literal["SIGNED", "SENT", "INCLUDED", "FINALIZED"]
    block: U64 | None
    gas_used: U64 | None
    gas_limit: U64


class RoundRecord(Record):
    """One sealed round; `commit` is None while its transaction is not signed."""

    round: U64
    model: Hash
    root: Hash
    rewards_root: Hash
    owed: Amount
    head: Hash
    contributions: list[ContributionRecord]
    refused: list[RefusalRecord]
    commit: TransactionRecord | None


class Bundle(Record):
    """The whole file."""

    format: Literal["hypergpu-ledger-1"] = "hypergpu-ledger-1"
    session: SessionRecord
    transactions: list[TransactionRecord]
    rounds: list[RoundRecord]


def session_id(chain_id: int, contract: str, coordinator: str, salt: bytes) -> bytes:
    """Id of the session that `coordinator` opens with `salt`, as the contract computes it."""
    return keccak(word(chain_id) + address_word(contract) + address_word(coordinator) + salt)


def round_record(sealed: SealedRound, commit: TransactionRecord | None) -> RoundRecord:
    """Describe a sealed round as the bundle holds it, with the proof of every leaf."""
    leaves = [contribution.leaf() for contribution in sealed.contributions]
    tree = MerkleTree(leaves)
    entries = []
    for i, contribution in enumerate(sealed.contributions):
        credited, signed = contribution.credited, contribution.credited.contribution
        entries.append(
            ContributionRecord(
                index=contribution.index,
                round=signed.round,
                node=credited.node,
                base_model=signed.base_model,
                update_hash=signed.update_hash,
                examples=signed.examples,
                metrics_hash=signed.metrics_hash,
                weight=credited.weight,
                score=credited.score,
                reward=contribution.reward,
                signature=credited.signature,
                leaf=leaves[i],
                proof=tree.proof(i),
                duplicate_of=credited.duplicate_of,
            )
        )
    return RoundRecord(
        round=sealed.seal.round,
        model=sealed.seal.model,
        root=sealed.root,
        rewards_root=sealed.rewards_root,
        owed=sealed.owed,
        head=sealed.head,
        contributions=entries,
        refused=[RefusalRecord(node=r.node, reason=r.reason, detail=r.detail) for r in sealed.seal.refused],
        commit=commit,
    )


def write_bundle(path: Path, bundle: Bundle) -> None:
    """Write the bundle atomically: a reader sees the old file or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(bundle.model_dump_json(indent=1))
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_bundle(path: Path) -> Bundle:
    """Read a bundle from anyone.

    Raises
    ------
    LedgerError
        If the file cannot be read.
    VerificationError
        If it does not have a bundle's shape; names the round where that is known.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise LedgerError(f"{path} cannot be read: {error.strerror}", "write it with `ledger export`") from None
    try:
        return Bundle.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = first["loc"]
        place = ".".join(str(part) for part in where)
        number = f"round {int(where[1]) + 1}: " if len(where) > 1 and where[0] == "rounds" else ""
        raise VerificationError(
            f"{number}{place}: {first['msg']}", "the file was altered or cut off; take it from its source again"
        ) from None
