"""From scores to money: what a round pays to whom, and what every account has earned and brought so far.

A round alone says little: on unlike data its step may help nobody's neighbours, and the next one makes up for it. So
scores, which may be negative, are carried: an account's *standing* is the sum of its scores, of which a tenth fades in
every round. A bad round is set off against good ones, work done long ago stops being paid, and a node that joins late
is soon measured by what it brings now.

A round pays out of its budget and of what earlier rounds left. It pays those who worked in it, in proportion to their
standing where that is positive, all of it unless they are worth less than that many accounts on average. Otherwise an
account that brought next to nothing would take a whole budget by being alone in a round. What is not paid rolls on.
Nothing that was paid is taken back, so cumulative rewards never fall.

All of it is exact arithmetic on integers, so that everybody who holds the scores finds the same rewards.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

KEPT: Final = (9, 10)  # of a standing, from round to round, as a fraction
SHARES: Final = 10**6
"""A whole budget, where a share of it is an integer."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A contribution as far as money is concerned: whose, its score, and its work in the unit of the round's others."""

    account: str
    score: int
    work: int = 0


@dataclass(frozen=True, slots=True)
class Pay:
    """What a round has to give, in wei; ``base`` parts in `SHARES` of it go by work, whatever the work brought."""

    budget: int
    base: int = 0


def summed(earned: Iterable[tuple[str, int]], before: Mapping[str, int] | None = None) -> dict[str, int]:
    """What each account earned in all, `before` included; accounts that earned nothing are left out."""
    totals = dict(before or {})
    for account, reward in earned:
        if reward:
            totals[account] = totals.get(account, 0) + reward
    return totals


@dataclass(frozen=True, slots=True)
class RewardDistribution:
    """Cumulative earnings of a session's accounts after a round, and what the next round goes by.

    Parameters
    ----------
    session : bytes
        Session id.
    cumulative : Mapping[str, int]
        EIP-55 address to all it has earned so far, in wei; accounts that earned nothing are left out.
    standing : Mapping[str, int]
        Address to its scores so far, faded; every account that ever contributed.
    unspent : int
        Budget of all rounds so far that nobody earned, in wei.
    """

    session: bytes
    cumulative: Mapping[str, int]
    standing: Mapping[str, int] = field(default_factory=dict)
    unspent: int = 0

    def rewards(self, entries: Sequence[Entry], pay: Pay) -> list[int]:
        """What a round pays for each of its contributions, in wei; an account's whole pay is on its first one."""
        base = pay.budget * pay.base // SHARES
        amounts = dict.fromkeys((entry.account for entry in entries), 0)
        if work := sum(entry.work for entry in entries):
            for entry in entries:
                amounts[entry.account] += base * entry.work // work
        left = self.unspent + pay.budget - sum(amounts.values())
        worth = {account: max(0, value) for account, value in self._standing_with(entries).items()}
        here = sum(worth[account] for account in amounts)
        typical = -(-sum(worth.values()) * len(amounts) // max(1, len(worth)))  # of so many accounts, rounded up
        if here:
            for account in amounts:
                amounts[account] += left * worth[account] // max(here, typical)
        return [amounts.pop(entry.account, 0) for entry in entries]

    def after(self, entries: Sequence[Entry], rewards: Sequence[int], pay: Pay) -> RewardDistribution:
        """Distribution after a round that paid these rewards."""
        earned = zip((entry.account for entry in entries), rewards, strict=True)
        left = self.unspent + pay.budget - sum(rewards)
        return RewardDistribution(self.session, summed(earned, self.cumulative), self._standing_with(entries), left)

    def _standing_with(self, entries: Sequence[Entry]) -> dict[str, int]:
        kept, whole = KEPT
        standing = {account: value * kept // whole for account, value in self.standing.items()}
        for entry in entries:
            standing[entry.account] = standing.get(entry.account, 0) + entry.score
        return standing

    @property
    def owed(self) -> int:
        """Sum over all accounts: what the contract must hold or have paid."""
        return sum(self.cumulative.values())
