"""Sum tree of what a round grants: one proof shows that the round's money covers the whole tree.

A node of the tree is a hash and the sum of the amounts below it. The hash binds both children and both sums,
``keccak(left, left sum, right, right sum)``. So the leaves under one root can never add up to more than the root's sum,
whoever built the tree and whatever else is in it. The account determines the place of its leaf: at depth ``d`` the
``d``-th lowest bit of the address says left (0) or right (1), and the leaf sits at the first depth where no other
account shares its bits. So a tree holds each account at most once. The contract's `claim` checks the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from hypergpu_fl.keccak import keccak
from hypergpu_fl.ledger.contribution import reward_leaf, word
from hypergpu_fl.ledger.merkle import EMPTY_ROOT


class Sum(NamedTuple):
    """A node of the tree: its hash, and what the leaves below it grant, in wei."""

    hash: bytes
    amount: int


_NOBODY = Sum(EMPTY_ROOT, 0)


def _joined(left: Sum, right: Sum) -> Sum:
    hashed = keccak(left.hash + word(left.amount) + right.hash + word(right.amount))
    return Sum(hashed, left.amount + right.amount)


class RewardTree:
    """Tree of a round's rewards.

    Parameters
    ----------
    session : bytes
        Session id.
    earned : Mapping[str, int]
        EIP-55 address to what the round grants it: wei, above 0. May be empty.
    """

    def __init__(self, session: bytes, earned: Mapping[str, int]) -> None:
        self._nodes: dict[tuple[int, int], Sum] = {}  # by depth and lowest bits; branches and leaves only
        self._earned = earned
        leaves = [(int(account, 16), Sum(reward_leaf(session, account, wei), wei)) for account, wei in earned.items()]
        self.top = self._built(leaves, 0, 0)

    def _built(self, leaves: Sequence[tuple[int, Sum]], depth: int, prefix: int) -> Sum:
        if len(leaves) > 1:
            sides = [[leaf for leaf in leaves if leaf[0] >> depth & 1 == bit] for bit in (0, 1)]
            left, right = (self._built(side, depth + 1, prefix | bit << depth) for bit, side in enumerate(sides))
            node = _joined(left, right)
        else:
            node = leaves[0][1] if leaves else _NOBODY
        self._nodes[depth, prefix] = node
        return node

    @property
    def root(self) -> bytes:
        """Root hash; `EMPTY_ROOT` if the round grants nothing."""
        return self.top.hash

    def proof(self, account: str) -> list[Sum]:
        """Siblings from the account's leaf up to the root; KeyError if the tree grants it nothing."""
        if account not in self._earned:
            raise KeyError(account)
        place, depth, way = int(account, 16), 0, []
        while (depth + 1, place & (2 << depth) - 1) in self._nodes:
            way.append(self._nodes[depth + 1, place & (2 << depth) - 1 ^ 1 << depth])
            depth += 1
        return way[::-1]


def proven_total(session: bytes, account: str, amount: int, proof: Sequence[Sum]) -> Sum:
    """Root and total to which `proof` leads from the `amount` that an account was granted."""
    node, place = Sum(reward_leaf(session, account, amount), amount), int(account, 16)
    for depth, other in zip(range(len(proof) - 1, -1, -1), proof, strict=True):
        node = _joined(other, node) if place >> depth & 1 else _joined(node, other)
    return node
