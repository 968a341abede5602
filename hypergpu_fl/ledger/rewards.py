"""From scores to money: a round's budget, and what every account has earned so far."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


def split_budget(scores: Sequence[int], budget: int) -> list[int]:
    """Share `budget` wei by score: ``r_i = floor(budget * s_i / sum s)``.

    Nobody earns anything when all scores are 0. What flooring leaves over, less than one wei a contribution,
    stays in the pool.
    """
    total = sum(scores)
    return [budget * score // total if total else 0 for score in scores]


def summed(earned: Iterable[tuple[str, int]], before: Mapping[str, int] | None = None) -> dict[str, int]:
    """What each account earned in all, `before` included; accounts that earned nothing are left out."""
    totals = dict(before or {})
    for account, reward in earned:
        if reward:
            totals[account] = totals.get(account, 0) + reward
    return totals


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
        return RewardDistribution(self.session, summed(earned, self.cumulative))

    @property
    def owed(self) -> int:
        """Sum over all accounts: what the contract must hold or have paid."""
        return sum(self.cumulative.values())
