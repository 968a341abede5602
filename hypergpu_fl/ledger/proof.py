"""Proof that one contribution was sealed, and what its round granted to the node.

A proof leads to the newest committed head; the contract and the npm library can check it. A receipt is what a node
keeps: it leads to the head after its own round only, and the coordinator has signed that head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pydantic import Field

from hypergpu_fl.errors import LedgerError, VerificationError
from hypergpu_fl.ledger.bundle import Bundle, ContributionRecord, RoundRecord, SessionRecord, session_id
from hypergpu_fl.ledger.contribution import Contribution, CreditedContribution, SealedContribution
from hypergpu_fl.ledger.fields import (
    U64,
    Address,
    Amount,
    Hash,
    Record,
    Siblings,
    Signature,
    U32Text,
    U64Text,
)
from hypergpu_fl.ledger.identity import recover_signer
from hypergpu_fl.ledger.merkle import proven_root
from hypergpu_fl.ledger.reward_tree import RewardTree, Sum, proven_total
from hypergpu_fl.ledger.sealing import next_head
from hypergpu_fl.ledger.statement import round_digest

LEAF_ENCODING: Final = (
    "bytes32", "uint64", "uint32", "address", "bytes32", "bytes32", "uint64", "bytes32", "uint64", "uint256", "uint256",
)  # fmt: skip
"""ABI types of a leaf: session, round, index, node, base model, update, examples, metrics, weight, score, reward.

A negative score is its two's complement."""


PROOF: Final = "hypergpu-proof-2"
RECEIPT: Final = "hypergpu-receipt-2"


class Commitment(Record):
    """What one ``commitRound`` sealed, in the contract's order."""

    round: U64
    root: Hash
    model: Hash
    rewards: Hash
    owed: Annotated[Amount, Field(lt=2**128)]

    def head_after(self, before: bytes) -> bytes:
        """Head of the session once this is committed on the head `before`."""
        return next_head(
            before, round=self.round, root=self.root, model=self.model, rewards_root=self.rewards, owed=self.owed
        )


class Grant(Record):
    """What a round granted to the node in all, and the proof of it: the arguments of the contract's ``claim``.

    ``proof`` holds the siblings in the round's sum tree. ``previous`` is the commitment of the round before (None for
    round 1), from which the contract computes what the round added, and ``before`` is the head before ``previous``.
    So a node can claim what it earned with its receipt alone, whatever becomes of the ledger.
    """

    amount: Amount
    proof: Annotated[list[tuple[Hash, Amount]], Field(max_length=160)]
    previous: Commitment | None
    before: Hash


class ContributionProof(Record):
    """A leaf, its path to the round's root, and the commitments from there to a head.

    ``value`` under ``leaf_encoding`` with ``proof`` and ``commitments[0].root`` is what the npm package's
    ``StandardMerkleTree.verify`` takes; ``value``, ``proof``, ``before`` and ``commitments`` are the arguments of the
    contract's ``verifyContribution``. ``grant`` is None if the round granted the node nothing. ``statement`` is the
    coordinator's signature over the head (`round_digest`); only a receipt has one.
    """

    format: Literal["hypergpu-proof-2", "hypergpu-receipt-2"]
    chain_id: U64
    contract: Address
    coordinator: Address
    salt: Hash
    leaf_encoding: tuple[str, ...]
    value: tuple[Hash, U64Text, U32Text, Address, Hash, Hash, U64Text, Hash, U64Text, Amount, Amount]
    leaf: Hash
    proof: Siblings
    before: Hash
    commitments: Annotated[list[Commitment], Field(min_length=1)]
    head: Hash
    signature: Signature
    grant: Grant | None
    statement: Signature | None

    @property
    def sealed(self) -> SealedContribution:
        """The contribution that the values describe."""
        session, round, index, node, base, update, examples, metrics, weight, score, reward = self.value
        signed = Contribution(session, round, base, update, examples, metrics)
        return SealedContribution(index, CreditedContribution(signed, node, self.signature, weight, score), reward)


def commitment(record: RoundRecord) -> Commitment:
    """What a round's ``commitRound`` sealed."""
    return Commitment(
        round=record.round, root=record.root, model=record.model, rewards=record.rewards_root, owed=record.owed
    )


@dataclass(frozen=True, slots=True)
class GrantedRound:
    """A round that granted rewards, with what proves them.

    That is the tree of the rewards, the commitment of the round before (``previous``), and the head before that.
    """

    earned: Mapping[str, int]
    tree: RewardTree
    previous: Commitment | None
    before: bytes

    @classmethod
    def of(cls, session: bytes, record: RoundRecord, previous: RoundRecord | None, before: bytes) -> GrantedRound:
        """Build a round's tree; `before` is the head before `previous`, the session id without one."""
        tree = RewardTree(session, record.earned)
        return cls(record.earned, tree, commitment(previous) if previous else None, before)

    def grant(self, node: str) -> Grant | None:
        """What the round granted to a node; None if nothing."""
        if node not in self.earned:
            return None
        proof = [(sibling.hash, sibling.amount) for sibling in self.tree.proof(node)]
        return Grant(amount=self.earned[node], proof=proof, previous=self.previous, before=self.before)


def contribution_proof(
    session: SessionRecord,
    rounds: Sequence[RoundRecord],
    before: bytes,
    entry: ContributionRecord,
    granted: GrantedRound,
    *,
    statement: bytes | None = None,
) -> ContributionProof:
    """Prove `entry`, which ``rounds[0]`` sealed, against the head after the last of `rounds`.

    Parameters
    ----------
    session : SessionRecord
        The session.
    rounds : Sequence[RoundRecord]
        The round that sealed the contribution and all rounds after it, up to the head in question.
    before : bytes
        Head before ``rounds[0]``.
    entry : ContributionRecord
        The contribution.
    granted : GrantedRound
        The rewards of ``rounds[0]``.
    statement : bytes, optional
        The coordinator's signature over the last head, which makes the proof a receipt.
    """
    return ContributionProof(
        format=PROOF if statement is None else RECEIPT,
        chain_id=session.chain_id,
        contract=session.contract,
        coordinator=session.coordinator,
        salt=session.salt,
        leaf_encoding=LEAF_ENCODING,
        value=(
            session.id, entry.round, entry.index, entry.node, entry.base_model, entry.update_hash, entry.examples,
            entry.metrics_hash, entry.weight, entry.score % 2**256, entry.reward,
        ),
        leaf=entry.leaf,
        proof=entry.proof,
        before=before,
        commitments=[commitment(record) for record in rounds],
        head=rounds[-1].head,
        signature=entry.signature,
        grant=granted.grant(entry.node),
        statement=statement,
    )  # fmt: skip


def proof_from_bundle(bundle: Bundle, *, node: str, round: int, name: str = "") -> ContributionProof:
    """Proof of the contribution of `node` that `round` sealed, up to the last committed round.

    `node` is an address; `name` is what an error calls it.

    Raises
    ------
    LedgerError
        If there is no such round, or it sealed nothing of the node.
    """
    if not 1 <= round <= len(bundle.rounds):
        raise LedgerError(f"there is no round {round}", f"rounds go from 1 to {len(bundle.rounds)}")
    record = bundle.rounds[round - 1]
    entry = next((entry for entry in record.contributions if entry.node.lower() == node.lower()), None)
    if entry is None:
        raise LedgerError(
            f"round {round} sealed nothing of {name or node}", f"`hypergpu ledger show` names who is in round {round}"
        )
    included = [r.round for r in bundle.rounds if r.commit and r.commit.state in ("INCLUDED", "FINALIZED")]
    last = max(max(included, default=len(bundle.rounds)), round)
    heads = [bundle.session.id, *(r.head for r in bundle.rounds)]
    previous = bundle.rounds[round - 2] if round > 1 else None
    granted = GrantedRound.of(bundle.session.id, record, previous, heads[max(round - 2, 0)])
    return contribution_proof(bundle.session, bundle.rounds[round - 1 : last], heads[round - 1], entry, granted)


def verify_proof(proof: ContributionProof) -> None:
    """Check a proof or receipt by itself: leaf, signatures, path to the root, commitments to the head, the grant.

    Whether the chain holds that head, only the contract can say.

    Raises
    ------
    VerificationError
        If one part of it contradicts another.
    """
    sealed, node = proof.sealed, proof.value[3]
    session = sealed.credited.contribution.session
    if session != session_id(proof.chain_id, proof.contract, proof.coordinator, proof.salt):
        raise _refused("the session is not the hash of chain, contract, coordinator and salt")
    if proof.leaf_encoding != LEAF_ENCODING or sealed.leaf() != proof.leaf:
        raise _refused("the leaf is not the hash of its values")
    if (signer := _signer(sealed.credited.contribution.digest(), proof.signature)) != node:
        raise _refused(f"the contribution is signed by {signer}, not by {node}")
    if proven_root(proof.leaf, proof.proof) != proof.commitments[0].root:
        raise _refused("the proof does not lead to the round's root")
    head, first, last = proof.before, proof.commitments[0].round, proof.commitments[-1].round
    if [c.round for c in proof.commitments] != list(range(first, last + 1)):
        raise _refused("the commitments are not those of rounds in a row")
    for c in proof.commitments:
        head = c.head_after(head)
    if head != proof.head:
        raise _refused("the commitments do not lead to the head")
    if not 1 <= sealed.credited.contribution.round <= first:
        raise _refused("the contribution is sealed before the round it was made for")
    _verify_grant(proof)
    if (proof.statement is not None) != (proof.format == RECEIPT):
        raise _refused("a receipt is signed by the coordinator, and a proof is not")
    if proof.statement is not None:
        signer = _signer(round_digest(session, last, head), proof.statement)
        if signer != proof.coordinator:
            raise _refused(f"the head is signed by {signer}, not by the coordinator {proof.coordinator}")


def _verify_grant(proof: ContributionProof) -> None:
    sealing, session, node, grant = proof.commitments[0], proof.value[0], proof.value[3], proof.grant
    if grant is None:
        if proof.value[10]:
            raise _refused("the proof of what the round granted is missing")
        return
    before, owed = grant.before, 0
    if (previous := grant.previous) is not None:
        before, owed = previous.head_after(before), previous.owed
    if before != proof.before or sealing.round != (previous.round + 1 if previous else 1):
        raise _refused("the round before does not lead to the head before the round")
    total = proven_total(session, node, grant.amount, [Sum(*sibling) for sibling in grant.proof])
    if total != (sealing.rewards, sealing.owed - owed) or grant.amount < proof.value[10]:
        raise _refused("what the round granted does not lead to its rewards root")


def _signer(digest: bytes, signature: bytes) -> str:
    try:
        return recover_signer(digest, signature)
    except LedgerError as error:
        raise _refused(error.cause) from None


def _refused(cause: str) -> VerificationError:
    return VerificationError(cause, "do not rely on it; ask its writer for the whole ledger")
