"""What a contribution was worth: scores from losses on a validation set that the server holds.

The default method is in `hypergpu_fl.ledger.aumann_shapley`; only its scores add up to the round's improvement at the
cost of three gradients. The methods here need losses alone, so they also serve tasks without gradients.

Scores are the coordinator's word. A signature proves who sent an update, not that its score is fair; whoever doubts a
score must repeat the measurement. All methods return integers, so that rewards are exact and the same everywhere.

Names used here: N = contributions, P = values of an update, ``L(S)`` = validation loss of the model after adding the
weighted mean of the updates in coalition ``S``, ``L()`` that of the model before the round.

`SCORE_UNIT` stands for "one example with full improvement", `VALUE_UNIT` for 1 of the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.random import Generator

SCORE_UNIT: Final = 10**6
VALUE_UNIT: Final = 10**9
LARGEST: Final = 1e18
CYCLED_NODES: Final = 32  # with more nodes, a single cycle takes longer than a round can wait
LONGEST_CYCLES: Final = 4
# Times |L()|, by which a coalition's loss may exceed L(). One that is worse, or not finite, is broken, and how badly
# says nothing: without a bound, whoever joins a broken coalition and dilutes it would earn more than a run is worth.
WORST: Final = 10.0

Coalition = tuple[int, ...]
"""Indices of the contributions in it, ascending."""

CoalitionLoss = Callable[[Coalition], float]


def improvement_score(examples: int, loss_before: float, loss_after: float, *, max_examples: int) -> int:
    """Examples times measured improvement: ``min(n, n_max) * max(0, (L() - L({i})) / L())``.

    The cap bounds what a node gains by claiming more examples than it has. A model that is already perfect
    (``L() = 0``), or a loss that is not finite, earns nothing.
    """
    if not (np.isfinite(loss_before) and np.isfinite(loss_after)) or loss_before <= 0:
        return 0
    return round(SCORE_UNIT * min(examples, max_examples) * max(0.0, (loss_before - loss_after) / loss_before))


def weight_score(examples: int, weight: float, *, max_examples: int) -> int:
    """Examples times weight in the round's mean; needs no validation set and does not measure quality."""
    return round(SCORE_UNIT * min(examples, max_examples) * weight)


def leave_one_out(count: int, loss: CoalitionLoss) -> list[float]:
    """How much worse the round would be without each contribution: ``max(0, L(all but i) - L(all))``.

    It takes N + 2 evaluations of the loss. No coalition counts as worse than ``WORST`` allows. If the round is as bad
    as that, the fewest contributions that are worst alone are left out until it is better, and score nothing; the
    others are measured without them. That takes N more evaluations. Where the loss is convex, a mean that is broken
    holds a contribution that is as bad alone.
    """
    most = _largest(loss(()))
    members: Coalition = tuple(range(count))
    full = _bounded(loss(members), most)
    if full == most:
        alone = [found if np.isfinite(found := loss((i,))) else np.inf for i in members]
        for worst in sorted(members, key=alone.__getitem__, reverse=True):
            members = tuple(i for i in members if i != worst)
            full = _bounded(loss(members), most)
            if full < most:
                break
    worth = {i: max(0.0, _bounded(loss(tuple(j for j in members if j != i)), most) - full) for i in members}
    return [worth.get(i, 0.0) for i in range(count)]


def gtg_shapley(
    count: int, loss: CoalitionLoss, *, rng: Generator, tolerance: float = 1e-3, max_permutations: int = 0
) -> list[float]:
    """Shapley values of the round's loss reduction by guided, truncated sampling (GTG-Shapley, arXiv 2109.02053).

    Permutations are drawn in cycles in which each contribution leads once. A permutation is cut off as soon as what the
    rest could still bring, ``L(prefix) - L(all)``, is within `tolerance` times ``L() - L(all)`` of zero. A round that
    brings nothing is not sampled at all. The loss of each coalition is computed once. Negative values count as 0. No
    coalition counts as worse than `WORST` allows, so who breaks the models that it joins spoils its own value alone.

    Beyond `CYCLED_NODES`, leaders are drawn at random, and only as many permutations that a round never needs more than
    about 4,000 losses: the values are still unbiased, but rough.

    Parameters
    ----------
    count : int
        N.
    loss : CoalitionLoss
        Validation loss of a coalition.
    rng : Generator
        Source of permutations.
    tolerance : float
        Truncation, as a share of the round's whole effect.
    max_permutations : int
        Upper bound; 0 means ``4 * N``, or ``4096 / N`` beyond `CYCLED_NODES`. Sampling ends sooner when the values
        change by less than 5 % a cycle.
    """
    empty = loss(())
    most = _largest(empty)
    known: dict[Coalition, float] = {(): empty}

    def value(members: Sequence[int]) -> float:
        coalition = tuple(sorted(members))
        if coalition not in known:
            known[coalition] = _bounded(loss(coalition), most)
        return known[coalition]

    full = value(range(count))
    if count == 0 or empty - full == 0:
        return [0.0] * count
    cut = tolerance * abs(empty - full)
    sums, drawn = np.zeros(count), 0
    cycled = count <= CYCLED_NODES
    limit = max_permutations or (LONGEST_CYCLES * count if cycled else LONGEST_CYCLES * CYCLED_NODES**2 // count or 1)
    while drawn < limit:
        before = sums / max(drawn, 1)
        for leader in range(count) if cycled else rng.permutation(count)[:limit].tolist():
            rest = rng.permutation([i for i in range(count) if i != leader])
            prefix: list[int] = []
            current = empty
            for i in (leader, *map(int, rest)):
                if abs(current - full) <= cut:
                    break
                prefix.append(i)
                following = value(prefix)
                sums[i] += current - following
                current = following
            drawn += 1
        moved = float(np.abs(sums / drawn - before).sum())
        if drawn > count and moved <= 0.05 * float(np.abs(before).sum()):
            break
    return [max(0.0, float(v)) for v in sums / drawn]


def _largest(empty: float) -> float:
    return empty + WORST * abs(empty)


def _bounded(loss: float, most: float) -> float:
    return loss if loss < most else most  # NaN is not below anything


def to_scores(values: Sequence[float]) -> list[int]:
    """Integer scores from values in the unit of the loss, which may be negative; what is not finite scores 0.

    No value counts for more than `LARGEST` of the loss, so that a loss of 1e300 fits into the books.
    """
    return [round(VALUE_UNIT * min(LARGEST, max(-LARGEST, value))) if np.isfinite(value) else 0 for value in values]
