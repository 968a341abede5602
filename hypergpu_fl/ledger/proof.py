"""Proof that one contribution was sealed: for a contract call, for the npm library, and as a node's receipt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from hypergpu_fl.errors import LedgerError, VerificationError
from hypergpu_fl.keccak import keccak
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
    session_id,
)
from hypergpu_fl.ledger.contribution import Contribution, address_word, word
from hypergpu_fl.ledger.identity import recover
from hypergpu_fl.ledger.merkle import proven_root
from hypergpu_fl.ledger.sealing import next_head

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
    salt: Hash
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
        salt=session.salt,
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


def verify_proof(proof: ContributionProof) -> None:
    """Check a proof or receipt by itself: leaf, signature, way to the root, way to the head.

    That the head is the chain's is for the contract to say.

    Raises
    ------
    VerificationError
        If anything in it differs from what the rest says.
    """
    remedy = "do not rely on it; ask its writer for the whole ledger"
    try:
        leaf = _leaf(proof.value)
        signed = _contribution(proof.value)
        if signed.session != session_id(proof.chain_id, proof.contract, proof.coordinator, proof.salt):
            raise VerificationError("the session is not the hash of chain, contract, coordinator and salt", remedy)
        signer = recover(signed, proof.signature)
    except (ValueError, IndexError, OverflowError):
        raise VerificationError("the proof's values are not a contribution's", remedy) from None
    except VerificationError:
        raise
    except LedgerError as error:
        raise VerificationError(error.cause, remedy) from None
    if proof.leaf_encoding != LEAF_ENCODING or leaf != proof.leaf:
        raise VerificationError("the leaf is not the hash of its values", remedy)
    if signer != proof.value[3]:
        raise VerificationError(f"the contribution is signed by {signer}, not by {proof.value[3]}", remedy)
    if not proof.commitments or proven_root(leaf, proof.proof) != proof.commitments[0].root:
        raise VerificationError("the proof does not lead to the round's root", remedy)
    head = proof.before
    for c in proof.commitments:
        head = next_head(head, round=c.round, root=c.root, model=c.model, rewards_root=c.rewards, owed=c.owed)
    if head != proof.head:
        raise VerificationError("the commitments do not lead to the head", remedy)


def _leaf(value: Sequence[str]) -> bytes:
    words = []
    for kind, text in zip(LEAF_ENCODING, value, strict=True):
        if kind == "bytes32":
            words.append(bytes.fromhex(text[2:]).rjust(32, b"\0"))
        else:
            words.append(address_word(text) if kind == "address" else word(int(text)))
    return keccak(keccak(b"".join(words)))


def _contribution(value: Sequence[str]) -> Contribution:
    session, base_model, update_hash, metrics_hash = (bytes.fromhex(value[i][2:]) for i in (0, 4, 5, 7))
    return Contribution(session, int(value[1]), base_model, update_hash, int(value[6]), metrics_hash)
