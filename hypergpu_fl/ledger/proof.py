"""Proof that one contribution was sealed: for a contract call, for the npm library, and as a node's receipt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from hypergpu_fl.errors import LedgerError
from hypergpu_fl.ledger.bundle import (
    Address,
    Amount,
    Bundle,
    ContributionRecord,
    Hash,
    Record,
    RoundRecord,
    SessionRecord,
    Signature,
)

LEAF_ENCODING: Final = (
    "bytes32", "uint64", "uint32", "address", "bytes32", "bytes32", "uint64", "bytes32", "uint64", "uint256", "uint256",
)  # fmt: skip
"""ABI types of a leaf: session, round, index, node, base model, update, examples, metrics, weight, score, reward."""


class Commitment(Record):
    """What one ``commitRound`` sealed, in the contract's order."""

    round: int
    root: Hash
    model: Hash
    rewards: Hash
    owed: Amount


class ContributionProof(Record):
    """A leaf, its way to the root, and the way from there to a head.

    ``value`` under ``leaf_encoding`` with ``proof`` and ``commitments[0].root`` is what the npm package's
    ``StandardMerkleTree.verify`` takes; ``value``, ``proof``, ``before`` and ``commitments`` are the arguments of the
    contract's ``verifyContribution``, which needs all commitments up to the newest.
    """

    format: Literal["hypergpu-proof-1"] = "hypergpu-proof-1"
    chain_id: int
    contract: Address
    coordinator: Address
    leaf_encoding: tuple[str, ...]
    value: tuple[str, ...]
    leaf: Hash
    proof: list[Hash]
    before: Hash
    commitments: list[Commitment]
    head: Hash
    signature: Signature


def contribution_proof(
    session: SessionRecord, rounds: Sequence[RoundRecord], before: bytes, entry: ContributionRecord
) -> ContributionProof:
    """Prove `entry`, which ``rounds[0]`` sealed, against the head after the last of `rounds`.

    Parameters
    ----------
    session : SessionRecord
        The session.
    rounds : Sequence[RoundRecord]
        The round that sealed it and all after it, up to the head in question.
    before : bytes
        Head before the first of them.
    entry : ContributionRecord
        The contribution.
    """
    hashes = ("0x" + value.hex() for value in (entry.base_model, entry.update_hash, entry.metrics_hash))
    base_model, update_hash, metrics_hash = hashes
    numbers = (entry.weight, entry.score, entry.reward)
    value = (
        "0x" + session.id.hex(), str(entry.round), str(entry.index), entry.node, base_model, update_hash,
        str(entry.examples), metrics_hash, *map(str, numbers),
    )  # fmt: skip
    return ContributionProof(
        chain_id=session.chain_id,
        contract=session.contract,
        coordinator=session.coordinator,
        leaf_encoding=LEAF_ENCODING,
        value=value,
        leaf=entry.leaf,
        proof=entry.proof,
        before=before,
        commitments=[
            Commitment(round=r.round, root=r.root, model=r.model, rewards=r.rewards_root, owed=r.owed) for r in rounds
        ],
        head=rounds[-1].head,
        signature=entry.signature,
    )


def proof_from_bundle(bundle: Bundle, *, node: str, number: int) -> ContributionProof:
    """Proof of what `node` had sealed in round `number`, up to the last committed round.

    Raises
    ------
    LedgerError
        If there is no such round, or nothing of the node in it.
    """
    if not 1 <= number <= len(bundle.rounds):
        raise LedgerError(f"there is no round {number}", f"rounds go from 1 to {len(bundle.rounds)}")
    record = bundle.rounds[number - 1]
    entry = next((entry for entry in record.contributions if entry.node.lower() == node.lower()), None)
    if entry is None:
        raise LedgerError(f"round {number} sealed nothing of {node}", "see who is in it with `ledger show`")
    included = [r.round for r in bundle.rounds if r.commit and r.commit.state in ("INCLUDED", "FINALIZED")]
    last = max(included, default=len(bundle.rounds))
    before = bundle.rounds[number - 2].head if number > 1 else bundle.session.id
    return contribution_proof(bundle.session, bundle.rounds[number - 1 : max(last, number)], before, entry)
