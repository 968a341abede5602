"""OpenZeppelin's `standard-v1` Merkle tree.

Leaves are sorted by hash and fill the end of a heap array of ``2 n - 1`` nodes from the back; a parent is the
Keccak-256 of its two children in ascending order, so a proof needs no directions. The npm package
`@openzeppelin/merkle-tree` builds the same tree and is the tests' oracle.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hypergpu_fl.keccak import keccak

EMPTY_ROOT: Final = bytes(32)
"""Root written for a round without leaves; no proof leads to it."""


def _parent(a: bytes, b: bytes) -> bytes:
    return keccak(a + b if a < b else b + a)


class MerkleTree:
    """Tree over leaf hashes of 32 bytes, given in any order.

    Parameters
    ----------
    leaves : Sequence[bytes]
        Leaf hashes; positions in this sequence are what `proof` takes. May be empty.
    """

    def __init__(self, leaves: Sequence[bytes]) -> None:
        order = sorted(range(len(leaves)), key=leaves.__getitem__)
        nodes: list[bytes] = [b""] * max(2 * len(leaves) - 1, 0)
        self._position = [0] * len(leaves)
        for rank, index in enumerate(order):
            self._position[index] = len(nodes) - 1 - rank
            nodes[len(nodes) - 1 - rank] = leaves[index]
        for i in range(len(nodes) - 1 - len(leaves), -1, -1):
            nodes[i] = _parent(nodes[2 * i + 1], nodes[2 * i + 2])
        self._nodes = nodes

    @property
    def root(self) -> bytes:
        """Root hash; `EMPTY_ROOT` without leaves."""
        return self._nodes[0] if self._nodes else EMPTY_ROOT

    def proof(self, index: int) -> list[bytes]:
        """Siblings from the leaf given at `index` up to the root."""
        position, siblings = self._position[index], []
        while position > 0:
            siblings.append(self._nodes[position + 1 if position % 2 else position - 1])
            position = (position - 1) // 2
        return siblings


def proven_root(leaf: bytes, proof: Sequence[bytes]) -> bytes:
    """Root to which `proof` leads from `leaf`."""
    node = leaf
    for sibling in proof:
        node = _parent(node, sibling)
    return node
