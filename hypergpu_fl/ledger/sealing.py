"""Sealing a round: the pure step from verified contributions to roots, rewards and the next head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hypergpu_fl.keccak import keccak
from hypergpu_fl.ledger.contribution import CreditedContribution, SealedContribution, log_leaf, word
from hypergpu_fl.ledger.merkle import MerkleTree
from hypergpu_fl.ledger.pricing import Pricing
from hypergpu_fl.ledger.reward_tree import RewardTree
from hypergpu_fl.ledger.rewards import Pay, RewardDistribution, Scored, summed


@dataclass(frozen=True, slots=True)
class Refusal:
    """A reply that did not count: the node, the reason (`strategies.errors.Reason`), and the offending value."""

    node: str
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class RoundSeal:
    """What the server hands over for sealing at the end of a round.

    Parameters
    ----------
    round : int
        Number of the round, from 1, without gaps.
    base_model, model : bytes
        Hash of the global model before and after the round, 32 bytes each.
    contributions : Sequence[CreditedContribution]
        Those that counted; their order gives the leaves' indices.
    refused : Sequence[Refusal]
        Replies that did not count.
    stats : Mapping[str, int | float | str]
        Further figures for the round's record; not sealed.
    log_head : bytes, optional
        Hash of the last line of the run's event log that belongs to the round, 32 bytes; None without a log.
    pricing : Pricing, optional
        How the scores came about.
    """

    round: int
    base_model: bytes
    model: bytes
    contributions: Sequence[CreditedContribution]
    refused: Sequence[Refusal] = ()
    stats: Mapping[str, int | float | str] = field(default_factory=dict)
    log_head: bytes | None = None
    pricing: Pricing | None = None

    @property
    def entries(self) -> list[Scored]:
        """What rewards need of the contributions."""
        return paid_entries([(c.node, c.score) for c in self.contributions], self.pricing)

    def tree(self, session: bytes, leaves: Sequence[bytes]) -> MerkleTree:
        """Tree over the ``leaves`` of the contributions and the further leaves that the round seals."""
        return round_tree(leaves, session=session, round=self.round, log_head=self.log_head, pricing=self.pricing)


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
        """Tree whose root is sealed; its first leaves are those of the contributions, in their order."""
        leaves = [contribution.leaf() for contribution in self.contributions]
        return self.seal.tree(self.rewards.session, leaves)

    @property
    def owed(self) -> int:
        """What all rounds so far earned together, in wei."""
        return self.rewards.owed


def next_head(head: bytes, *, round: int, root: bytes, model: bytes, rewards_root: bytes, owed: int) -> bytes:
    """Contract's hash chain: ``keccak(head, round, root, model, rewards, owed)``; a session's first head is its id."""
    return keccak(head + word(round) + root + model + rewards_root + word(owed))


def paid_entries(scored: Sequence[tuple[str, int]], pricing: Pricing | None) -> list[Scored]:
    """What rewards need of contributions, from pairs of account and score."""
    work = [priced.work for priced in pricing.contributions] if pricing else [0] * len(scored)
    return [Scored(account, score, done) for (account, score), done in zip(scored, work, strict=True)]


def round_tree(
    leaves: Sequence[bytes], *, session: bytes, round: int, log_head: bytes | None, pricing: Pricing | None
) -> MerkleTree:
    """Tree over a round's contributions; its last leaves seal the event log's head and the pricing, if known."""
    more = [log_leaf(session, round, log_head)] if log_head is not None else []
    return MerkleTree([*leaves, *more, *([pricing.leaf(session, round)] if pricing is not None else [])])


def seal_round(seal: RoundSeal, *, before: bytes, rewards: RewardDistribution, pay: Pay) -> SealedRound:
    """Compute the rewards, build both trees and chain the head.

    Parameters
    ----------
    seal : RoundSeal
        The round.
    before : bytes
        Head before it.
    rewards : RewardDistribution
        Earnings and standings before it.
    pay : Pay
        What the round may pay.
    """
    entries = seal.entries
    amounts = rewards.rewards(entries, pay)
    sealed = [SealedContribution(i, c, r) for i, (c, r) in enumerate(zip(seal.contributions, amounts, strict=True))]
    root = seal.tree(rewards.session, [contribution.leaf() for contribution in sealed]).root
    earned = summed((contribution.credited.node, contribution.reward) for contribution in sealed)
    after, rewards_root = rewards.after(entries, amounts, pay), RewardTree(rewards.session, earned).root
    head = next_head(before, round=seal.round, root=root, model=seal.model, rewards_root=rewards_root, owed=after.owed)
    return SealedRound(seal, sealed, after, root, rewards_root, before, head)
