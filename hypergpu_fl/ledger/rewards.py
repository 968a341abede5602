"""From scores to money: what a round pays to whom, and what every account has earned so far.

The scores of a single round say little: where nodes hold unlike data, a step may help one node and harm the others, and
the next step makes up for it. So scores, which may be negative, are carried over. An account's *standing* is the sum of
its scores, of which a tenth fades in every round. A bad round is offset by good ones, work done long ago is no longer
paid, and a node that joins late is soon measured by what it brings now.

A round pays out of its own budget and of what earlier rounds left over. It pays the accounts that worked in it, in
proportion to their standing where that is positive. It pays all the money unless these accounts are worth less than the
same number of average accounts; otherwise an account that brought next to nothing would earn a whole budget by being
alone in a round. Unpaid money rolls over to the next round. Nothing is taken back, so cumulative rewards never fall.

All of this is exact integer arithmetic, so that everybody who holds the scores finds the same rewards.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

KEPT: Final = (9, 10)  # fraction of a standing that is kept from round to round
SHARES: Final = 10**6
"""Parts that a budget is divided into, where a share of it is an integer."""


@dataclass(frozen=True, slots=True)
class Scored:
    """What rewards need of a contribution: its account, its score, and its work in any unit that the round shares."""

    account: str
    score: int
    work: int = 0


@dataclass(frozen=True, slots=True)
class Pay:
    """What a round may pay: ``budget`` wei, of which ``base`` parts in `SHARES` are paid by work, useful or not."""

    budget: int
    base: int = 0


def summed(earned: Iterable[tuple[str, int]], before: Mapping[str, int] | None = None) -> dict[str, int]:
    """What each account earned in total, including `before`; accounts that earned nothing are left out."""
    totals = dict(before or {})
    for account, reward in earned:
        if reward:
            totals[account] = totals.get(account, 0) + reward
    return totals


@dataclass(frozen=True, slots=True)
class RewardDistribution:
    """Earnings and standings of a session's accounts after a round, from which the next round is paid.

    Parameters
    ----------
    session : bytes
        Session id.
    cumulative : Mapping[str, int]
        EIP-55 address to all it has earned so far, in wei; accounts that earned nothing are left out.
    standing : Mapping[str, int]
        Address to the faded sum of its scores; every account that ever contributed.
    unspent : int
        Budget of all rounds so far that nobody has earned, in wei.
    """

    session: bytes
    cumulative: Mapping[str, int]
    standing: Mapping[str, int] = field(default_factory=dict)
    unspent: int = 0

    def rewards(self, entries: Sequence[Scored], pay: Pay) -> list[int]:
        """What a round pays for each contribution, in wei; an account's whole pay stands at its first contribution."""
        base = pay.budget * pay.base // SHARES
        amounts = dict.fromkeys((entry.account for entry in entries), 0)
        if work := sum(entry.work for entry in entries):
            for entry in entries:
                amounts[entry.account] += base * entry.work // work
        left = self.unspent + pay.budget - sum(amounts.values())
        worth = {account: max(0, value) for account, value in self._standing_with(entries).items()}
        here = sum(worth[account] for account in amounts)
        typical = -(-sum(worth.values()) * len(amounts) // max(1, len(worth)))  # worth of as many average accounts
        if here:
            for account in amounts:
                amounts[account] += left * worth[account] // max(here, typical)
        return [amounts.pop(entry.account, 0) for entry in entries]

    def after(self, entries: Sequence[Scored], rewards: Sequence[int], pay: Pay) -> RewardDistribution:
        """Distribution after a round that paid these rewards."""
        earned = zip((entry.account for entry in entries), rewards, strict=True)
        left = self.unspent + pay.budget - sum(rewards)
        return RewardDistribution(self.session, summed(earned, self.cumulative), self._standing_with(entries), left)

    def _standing_with(self, entries: Sequence[Scored]) -> dict[str, int]:
        kept, whole = KEPT
        standing = {account: value * kept // whole for account, value in self.standing.items()}
        for entry in entries:
            standing[entry.account] = standing.get(entry.account, 0) + entry.score
        return standing

    @property
    def owed(self) -> int:
        """Sum over all accounts, in wei: what the contract must hold or have paid."""
        return sum(self.cumulative.values())
