"""Sealing a round: the pure step from verified contributions to roots, rewards and the next head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hypergpu_fl.keccak import keccak
from hypergpu_fl.ledger.contribution import CreditedContribution, SealedContribution, log_leaf, word
from hypergpu_fl.ledger.merkle import MerkleTree
from hypergpu_fl.ledger.reward_tree import RewardTree
from hypergpu_fl.ledger.rewards import RewardDistribution, split_budget, summed


@dataclass(frozen=True, slots=True)
class Refusal:
    """A reply that did not count: who, why (`strategies.errors.Reason`), and the offending value."""

    node: str
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class RoundSeal:
    """What the strategy hands over at the end of a round.

    Parameters
    ----------
    round : int
        Number of the round, from 1, without gaps.
    base_model, model : bytes
        Hash of the global model before and after the round, 32 bytes each.
    contributions : Sequence[CreditedContribution]
        All that counted; their order gives the leaves' indices.
    refused : Sequence[Refusal]
        All that did not.
    stats : Mapping[str, int | float | str]
        What else the round's record should show; not sealed.
    log_head : bytes, optional
        Hash of the last line of the run's event log that belongs to the round, 32 bytes; None without a log.
    """

    round: int
    base_model: bytes
    model: bytes
    contributions: Sequence[CreditedContribution]
    refused: Sequence[Refusal] = ()
    stats: Mapping[str, int | float | str] = field(default_factory=dict)
    log_head: bytes | None = None


@dataclass(frozen=True, slots=True)
class SealedRound:
    """A round as it goes into the books, the bundle and the contract."""

    seal: RoundSeal
    contributions: Sequence[SealedContribution]
    rewards: RewardDistribution
    root: bytes
    rewards_root: bytes
    before: bytes
    head: bytes

    @property
    def tree(self) -> MerkleTree:
        """Tree whose root is sealed; its first leaves are the contributions' in their order."""
        leaves = [contribution.leaf() for contribution in self.contributions]
        return round_tree(leaves, session=self.rewards.session, round=self.seal.round, log_head=self.seal.log_head)

    @property
    def owed(self) -> int:
        """What all rounds so far earned together, in wei."""
        return self.rewards.owed


def next_head(head: bytes, *, round: int, root: bytes, model: bytes, rewards_root: bytes, owed: int) -> bytes:
    """Contract's hash chain: ``keccak(head, round, root, model, rewards, owed)``; a session's first head is its id."""
    return keccak(head + word(round) + root + model + rewards_root + word(owed))


def round_tree(leaves: Sequence[bytes], *, session: bytes, round: int, log_head: bytes | None) -> MerkleTree:
    """Tree over a round's contributions and, as its last leaf, over how far the event log went."""
    return MerkleTree(leaves if log_head is None else [*leaves, log_leaf(session, round, log_head)])


def seal_round(seal: RoundSeal, *, before: bytes, rewards: RewardDistribution, budget: int) -> SealedRound:
    """Share the budget, build both trees and chain the head.

    Parameters
    ----------
    seal : RoundSeal
        The round.
    before : bytes
        Head before it.
    rewards : RewardDistribution
        Earnings before it.
    budget : int
        Reward in wei that the round's contributions share.
    """
    shares = split_budget([credited.score for credited in seal.contributions], budget)
    sealed = [SealedContribution(i, c, r) for i, (c, r) in enumerate(zip(seal.contributions, shares, strict=True))]
    leaves = [contribution.leaf() for contribution in sealed]
    root = round_tree(leaves, session=rewards.session, round=seal.round, log_head=seal.log_head).root
    earned = [(contribution.credited.node, contribution.reward) for contribution in sealed]
    after, rewards_root = rewards.after(earned), RewardTree(rewards.session, summed(earned)).root
    head = next_head(before, round=seal.round, root=root, model=seal.model, rewards_root=rewards_root, owed=after.owed)
    return SealedRound(seal, sealed, after, root, rewards_root, before, head)
