"""How much each update counts: fast and good links may count more today, but every node gets its due in the long run.

Names used here: N = known nodes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from strategies.fleet import Fleet, Floats

LONGEST_ABSENCE = 50.0  # rounds of arrears that one update may make up for, as FedAU caps its intervals
SMALLEST_SHARE = 0.1  # of its data share: what even a node in credit is given


def staleness_discount(staleness: int) -> float:
    """``(1 + tau) ** -0.5`` for an update made against a model ``tau`` versions old (FedBuff, arXiv 2106.06639)."""
    return float((1 + staleness) ** -0.5)


class Accounts:
    """What every node is owed: its data share of each round's total weight of 1, less what it was given.

    An update's weight is its arrears x link quality x staleness discount; the weights of a round are normalised
    to sum to 1 and booked. Arrears sum to zero over the nodes, so paying them out in proportion pulls each node's
    long-run mean weight to its data share, however often it is chosen or arrives.
    """

    def __init__(self) -> None:
        self.owed: Floats = np.zeros(0)
        self.paid: Floats = np.zeros(0)
        self.rounds: Floats = np.zeros(0)

    def weight(self, fleet: Fleet, row: int, *, staleness: int) -> float:
        """Unnormalised weight of an update of node ``row`` arriving now; positive."""
        self._grow(len(fleet))
        share = data_share(fleet)
        arrears = min(max(self.owed[row] + share[row], SMALLEST_SHARE * share[row]), LONGEST_ABSENCE * share[row])
        return float(arrears * fleet.quality[row] * staleness_discount(staleness))

    def book(self, fleet: Fleet, rows: Sequence[int], weights: Sequence[float]) -> list[float]:
        """Close a round: credit every node its share, debit the normalised weights, and return those."""
        self._grow(len(fleet))
        total = sum(weights)
        if not rows:
            return []
        normalised = [weight / total for weight in weights]
        self.owed += data_share(fleet)
        self.rounds += 1
        for row, weight in zip(rows, normalised, strict=True):
            self.owed[row] -= weight
            self.paid[row] += weight
        return normalised

    def drift(self, fleet: Fleet) -> float:
        """``max |mean weight - data share|`` over the nodes."""
        self._grow(len(fleet))
        if not len(fleet) or not self.rounds.any():
            return 0.0
        return float(np.abs(self.paid / np.maximum(self.rounds, 1) - data_share(fleet)).max())

    def _grow(self, size: int) -> None:
        for name in ("owed", "paid", "rounds"):
            column = getattr(self, name)
            if column.size < size:
                setattr(self, name, np.concatenate([column, np.zeros(size - column.size)]))


def data_share(fleet: Fleet) -> Floats:
    """Shape (N,): each node's examples over all examples."""
    return np.asarray(fleet.examples / max(1, int(fleet.examples.sum())), dtype=np.float64)
