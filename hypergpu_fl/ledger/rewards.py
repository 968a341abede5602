"""From scores to money: a round's budget, and what every account has earned so far."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hypergpu_fl.ledger.contribution import reward_leaf
from hypergpu_fl.ledger.merkle import MerkleTree


def split_budget(scores: Sequence[int], budget: int) -> list[int]:
    """Share `budget` wei by score: ``r_i = floor(budget * s_i / sum s)``.

    Nobody earns anything when all scores are 0. What flooring leaves over, less than one wei a contribution,
    stays in the pool.
    """
    total = sum(scores)
    return [budget * score // total if total else 0 for score in scores]


@dataclass(frozen=True, slots=True)
class RewardDistribution:
    """Cumulative earnings of a session's accounts after a round, in wei.

    Parameters
    ----------
    session : bytes
        Session id.
    cumulative : Mapping[str, int]
        EIP-55 address to all it has earned so far; accounts that earned nothing are left out.
    """

    session: bytes
    cumulative: Mapping[str, int]

    def after(self, earned: Iterable[tuple[str, int]]) -> RewardDistribution:
        """Distribution after adding what a round earned."""
        cumulative = dict(self.cumulative)
        for account, reward in earned:
            if reward:
                cumulative[account] = cumulative.get(account, 0) + reward
        return RewardDistribution(self.session, cumulative)

    @property
    def owed(self) -> int:
        """Sum over all accounts: what the contract must hold or have paid."""
        return sum(self.cumulative.values())

    def tree(self) -> tuple[MerkleTree, list[str]]:
        """Merkle tree of the reward leaves, and the accounts in the order of its positions."""
        accounts = sorted(self.cumulative)
        return MerkleTree([reward_leaf(self.session, a, self.cumulative[a]) for a in accounts]), accounts

    def proof(self, account: str) -> list[bytes]:
        """Merkle proof of `account`'s cumulative earnings; KeyError if it has none."""
        tree, accounts = self.tree()
        if account not in self.cumulative:
            raise KeyError(account)
        return tree.proof(accounts.index(account))
