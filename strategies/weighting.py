"""How much each update counts: good links may count more now, but in the long run every node gets its due weight.

Names used here: N = known nodes, U = updates of a round.

In every round that closes with at least one update, each reachable node is *due* its share of the data of all nodes
reachable in that round. A node that joined late or was away is due nothing for the rounds it missed: it could not have
been given weight then, and paying it back later would drown the others. ``owed = due - paid`` is carried from round to
round.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from strategies.fleet import Bools, Fleet, Floats
from strategies.quantiles import median

# Link quality and staleness may raise or lower an update's weight by this factor at most. Measured: bounds of 1, 1.25
# and 2 made no difference where 100 nodes take turns; where four nodes answer every round, 2 took a round or two
# longer.
STRONGEST_TILT = 1.25
SMALLEST_WEIGHT = 1e-3
LARGEST_WEIGHT = 2.0  # rounds that one update may make up for, however large its node's share of the data
MOST_OF_FAIR = 5.0  # times its fair part of a round: what one update may weigh; the rest of its debt waits
LEAST_OF_FAIR = 1 / 3  # of its fair part: what even a node in credit weighs, so that the others' debts own no round
COUNT_GAIN = 0.2  # gain with which the expected number of updates follows the last round's


def staleness_discount(staleness: int) -> float:
    """``(1 + tau) ** -0.5`` for an update made against a model ``tau`` versions old (FedBuff, arXiv 2106.06639)."""
    return float((1 + staleness) ** -0.5)


def tilt(quality: float, typical_quality: float, staleness: int) -> float:
    """``clip(quality / typical * discount(staleness), 0.8, 1.25)``.

    It is bounded, while the debt is not, so that in the long run the debt decides a node's weight.
    """
    lean = quality / max(typical_quality, 1e-12) * staleness_discount(staleness)
    return min(STRONGEST_TILT, max(1 / STRONGEST_TILT, lean))


@dataclass(frozen=True, slots=True)
class Weighed:
    """An update's unnormalised weight, positive, its node's arrears, and the most that it may weigh."""

    weight: float
    arrears: float
    most: float


class Accounts:
    """What every node is owed, and what its updates therefore weigh.

    An update's weight is ``(arrears + level) * tilt``. Arrears are what the node is owed, this round's share included.
    The level is what each update of the round lacks until the round's arrears sum to 1, at least 0. It is estimated
    when the update arrives, from the updates before it and the nodes still at work. With weights proportional to
    arrears alone, a round of nodes that are nearly even would overpay the one that is least even. At the end of the
    round, the weights are normalised to sum to 1 and booked.

    No update makes up for more than ``MOST_OF_FAIR`` times its fair part of a round: its even part, or its data's part
    if that is more. A debt beyond that is paid over several rounds, so a node that withholds its updates to gather debt
    cannot own a round. What is cut off goes to the round's other updates, and each of these weighs a third of its fair
    part at least. A node that answers in fewer than one in ``MOST_OF_FAIR`` of the rounds in which it is expected
    therefore stays behind its data share: a lower cap would cost slow links more, a higher one would let one update
    decide a round.

    Both sides of a round's books sum to 1, so the debts of the reachable nodes stay balanced, and paying them out
    pulls each node's mean weight to its data share, however often it is chosen or arrives.
    """

    def __init__(self) -> None:
        self.due: Floats = np.zeros(0)
        self.paid: Floats = np.zeros(0)
        self.rounds: Floats = np.zeros(0)  # in which the node was reachable
        self._count = 0.0  # updates expected in a round
        self._arrears: list[float] = []  # of this round's updates so far
        self._most: list[float] = []  # that they might weigh

    def weigh(self, fleet: Fleet, row: int, *, staleness: int) -> Weighed:
        """What an update of node ``row`` arriving now weighs, unnormalised; changes nothing."""
        reachable = fleet.reachable
        examples = max(1, int(fleet.examples[reachable].sum()))
        working = fleet.at_work  # a copy
        working[row] = False
        share = float(fleet.examples[row]) / examples
        arrears = float(fleet.owed[row]) + share
        known = len(self._arrears) + 1 + int(working.sum())
        even = 1 / (self._count or known)
        shares = fleet.examples[working] / examples
        nodes = int(reachable.sum())
        fair = even * share * nodes  # what a node of this share is due whenever it is one of a round's updates
        most = float(_most(even, fair))
        arrears_U = np.concatenate([self._arrears, [arrears], fleet.owed[working] + shares])
        most_U = np.concatenate([self._most, [most], _most(even, even * shares * nodes)])
        level = _level(arrears_U, most_U, even * known)
        least = max(LEAST_OF_FAIR * min(even, fair), SMALLEST_WEIGHT)
        typical = median(fleet.quality[reachable]) if reachable.any() else float(fleet.quality[row])
        weight = max(arrears + level, least) * tilt(float(fleet.quality[row]), typical, staleness)
        return Weighed(min(weight, most), arrears, most)

    def settle(self, fleet: Fleet, row: int, weighed: Weighed) -> None:
        """Treat an update's arrears as paid until the round is booked, so that no debt is paid twice."""
        fleet.owed[row] -= weighed.arrears
        self._arrears.append(weighed.arrears)
        self._most.append(weighed.most)

    def book(self, fleet: Fleet, rows: Sequence[int], weights: Sequence[float]) -> list[float]:
        """Close a round: credit every reachable node its share, debit the normalised weights, and return the weights.

        A round without updates books nothing.
        """
        self._grow(len(fleet))
        total = sum(weights)
        self._arrears.clear()
        self._most.clear()
        if not rows:
            return []
        self._count += (COUNT_GAIN if self._count else 1.0) * (len(rows) - self._count)
        normalised = [weight / total for weight in weights]
        counted = fleet.reachable
        counted[list(rows)] = True
        self.due += data_share(fleet, counted)
        self.rounds += counted
        np.add.at(self.paid, list(rows), normalised)
        fleet.owed[:] = self.due - self.paid
        return normalised

    def drift(self) -> float:
        """``max |mean weight - data share|`` over the nodes, both over the rounds in which each was reachable."""
        return float(np.abs((self.paid - self.due) / np.maximum(self.rounds, 1)).max(initial=0.0))

    def state(self) -> dict[str, Any]:
        """The books as JSON-able values."""
        return {
            "due": self.due.tolist(),
            "paid": self.paid.tolist(),
            "rounds": self.rounds.tolist(),
            "count": self._count,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Inverse of ``state``."""
        for name in ("due", "paid", "rounds"):
            setattr(self, name, np.asarray(state[name], dtype=np.float64))
        self._count = state["count"]

    def _grow(self, size: int) -> None:
        for name in ("due", "paid", "rounds"):
            column = getattr(self, name)
            if column.size < size:
                setattr(self, name, np.concatenate([column, np.zeros(size - column.size)]))


class ExampleAccounts(Accounts):
    """Weights proportional to examples, discounted by staleness: FedAvg's weights, and FedBuff's with staleness.

    The books are kept nevertheless, so that the bias of such weights can be reported.
    """

    def weigh(self, fleet: Fleet, row: int, *, staleness: int) -> Weighed:
        """See ``Accounts.weigh``."""
        return Weighed(max(1, int(fleet.examples[row])) * staleness_discount(staleness), 0.0, math.inf)


def _most(even: float, fair: Floats | float) -> Floats:
    """What an update of this ``fair`` part may weigh, where an ``even`` one is that of every update."""
    return np.asarray(np.minimum(LARGEST_WEIGHT, MOST_OF_FAIR * np.maximum(even, fair)), dtype=np.float64)


def _level(arrears_U: Floats, most_U: Floats, total: float) -> float:
    """What each update lacks until ``sum(min(arrears + level, most)) = total``, at least 0.

    An update cut at its most leaves the others more to share. The level only rises from step to step, so an update once
    cut stays cut.
    """
    cut_U = np.zeros(arrears_U.size, np.bool_)
    while True:
        level = (total - float(most_U[cut_U].sum()) - float(arrears_U[~cut_U].sum())) / max(1, int((~cut_U).sum()))
        found_U = cut_U | (arrears_U + level > most_U)
        if (found_U == cut_U).all() or found_U.all():
            return max(0.0, level)
        cut_U = found_U


BOOKS: Final[dict[str, Callable[[], Accounts]]] = {"debts": Accounts, "examples": ExampleAccounts}


def data_share(fleet: Fleet, counted: Bools | None = None) -> Floats:
    """Shape (N,): each node's share of all examples; of the ``counted`` nodes only, if given.

    Where none of them has any, their shares are equal, for what is paid must be due to somebody.
    """
    counted = np.ones(len(fleet), np.bool_) if counted is None else counted
    examples = np.where(counted, fleet.examples if fleet.examples[counted].any() else 1, 0)
    return np.asarray(examples / max(1, int(examples.sum())), dtype=np.float64)
