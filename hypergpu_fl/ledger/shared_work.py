"""Near copies share one reward, within a round and over rounds.

Names used here: N = updates of the round, S = dimensions of a sketch.

An update counts as a near copy of another node's if their cosine is at least `NEAR`, and if they are more alike than
honest updates are. Honest nodes with similar data send similar updates, so the difference must be small compared with
the differences between the round's nodes. A node's data stay the same, so it must also be small compared with the
difference to the node's own earlier updates. Noise of a few percent does not hide a copy; noise as large as the update
does.

Nobody can tell who copied whom, because the copy may arrive first. So near copies of one update are together worth as
much as the best of them. Within a round, each gets a part in proportion to its score. In a later round, the newcomer
gets an even part, and what the others were credited too much is taken off their next scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hypergpu_fl.ledger.near_copies import cosines, unit

NEAR: Final = 0.95
UNLIKE_OTHERS: Final = 0.25  # of the median difference between two nodes of the round; a copy differs by less
UNLIKE_ITSELF: Final = 0.75  # of the difference to the most similar of the node's own earlier updates; likewise
SENT_AGAIN: Final = 3.0  # times the difference to the copied update; own earlier work within it was sent again
ROUNDS: Final = 8  # rounds back in which copies are looked for
MOST_KNOWN: Final = 2048  # updates kept of those rounds: with a thousand nodes these are two rounds


@dataclass(slots=True)
class Credited:
    """An update of an earlier round: its node, its sketch scaled to length 1, and what it is credited with by now."""

    round: int
    node: str
    unit_S: NDArray[np.float32]
    credit: int


@dataclass(slots=True)
class SharedWork:
    """What the last rounds' updates are credited with, and the debits still to be taken off each node's scores."""

    known: list[Credited] = field(default_factory=list)
    debits: dict[str, int] = field(default_factory=dict)

    def shared(
        self, round: int, nodes: Sequence[str], sketches_NS: NDArray[np.float32], scores: Sequence[int]
    ) -> tuple[list[int], list[str]]:
        """Scores after near copies have shared, and the node whose update each update nearly equals, or ``""``."""
        self.known = [entry for entry in self.known[-MOST_KNOWN:] if entry.round >= round - ROUNDS]
        units_NS, credits, twins = unit(sketches_NS), list(scores), [""] * len(nodes)
        near_NN, names = cosines(units_NS, units_NS), np.asarray(nodes)
        unlike_NN = names[:, None] != names
        others = near_NN[unlike_NN]
        limit = max(NEAR, 1 - UNLIKE_OTHERS * (1 - float(np.median(others)))) if others.size > 4 else NEAR
        for group in _groups(unlike_NN & (near_NN >= limit)):
            brought = [max(0, scores[i]) for i in group]
            for i in group:
                twins[i] = next(nodes[j] for j in group if nodes[j] != nodes[i])
                credits[i] = scores[i] * max(brought) // sum(brought) if scores[i] > 0 else scores[i]
        if self.known:
            self._share_with_earlier(nodes, units_NS, credits, twins, limit)
        self.known += [
            Credited(round, node, unit_S, max(0, credit))
            for node, unit_S, credit in zip(nodes, units_NS, credits, strict=True)
        ]
        paid = list(credits)
        for i, node in enumerate(nodes):
            paid[i] -= self.debits.pop(node, 0)
        return paid, twins

    def _share_with_earlier(
        self,
        nodes: Sequence[str],
        units_NS: NDArray[np.float32],
        credits: list[int],
        twins: list[str],
        limit: float,
    ) -> None:
        near_NK = cosines(units_NS, np.stack([entry.unit_S for entry in self.known]))
        known_K = np.array([entry.node for entry in self.known])
        for i in np.flatnonzero(near_NK.max(axis=1) >= limit).tolist():
            others_K = known_K != nodes[i]
            own = near_NK[i][~others_K]
            least = max(limit, 1 - UNLIKE_ITSELF * (1 - float(own.max(initial=0.0))))
            like = [self.known[k] for k in np.flatnonzero(others_K & (near_NK[i] >= least))]
            if not like:
                continue
            twins[i] = twins[i] or like[0].node
            if credits[i] <= 0:
                continue
            again = 1 - own.max(initial=-1.0) <= SENT_AGAIN * (1 - near_NK[i][others_K].max())
            before = sum(entry.credit for entry in like)
            whole = max(credits[i], *(entry.credit for entry in like))
            credits[i] = 0 if again else whole // (1 + len({entry.node for entry in like}))
            excess = before + credits[i] - whole
            for entry in like:
                taken = max(0, excess) * entry.credit // before if before else 0
                entry.credit -= taken
                self.debits[entry.node] = self.debits.get(entry.node, 0) + taken

    def state(self) -> tuple[dict[str, Any], NDArray[np.float32]]:
        """Values for JSON, and the sketches, shape (N, S)."""
        rows = [[entry.round, entry.node, str(entry.credit)] for entry in self.known]
        sketches = np.stack([entry.unit_S for entry in self.known]) if self.known else np.zeros((0, 0), np.float32)
        return {"known": rows, "debits": {node: str(debit) for node, debit in self.debits.items()}}, sketches

    @classmethod
    def restored(cls, state: dict[str, Any], sketches: NDArray[np.float32]) -> SharedWork:
        """Inverse of ``state``."""
        known = [
            Credited(round, node, unit_S, int(credit))
            for (round, node, credit), unit_S in zip(state["known"], sketches, strict=True)
        ]
        return cls(known, {node: int(debit) for node, debit in state["debits"].items()})


def _groups(near_NN: NDArray[np.bool_]) -> list[list[int]]:
    """Groups of two or more updates that are near copies of one another, directly or through others."""
    joined_NN = near_NN | np.eye(len(near_NN), dtype=np.bool_)
    group_N = np.arange(len(near_NN))
    while not np.array_equal(group_N, least_N := np.where(joined_NN, group_N, len(near_NN)).min(axis=1)):
        group_N = least_N  # each takes the least number among those it is joined to, until nothing changes
    members: dict[int, list[int]] = {}
    for i, number in enumerate(group_N.tolist()):
        members.setdefault(number, []).append(i)
    return [indices for indices in members.values() if len(indices) > 1]
