"""Measures the updates of a step that exploded the model: each alone, then what the others make without the worst."""

from __future__ import annotations

from collections.abc import Sequence

from strategies.model.global_model import GlobalModel, Part
from strategies.outcome import Witness
from strategies.round.explosion import left_out, worst_first
from strategies.round.step import finite

Losses = tuple[float | None, ...]


def suspected(
    model: GlobalModel, witness: Witness | None, parts: Sequence[Part], *, rule: str, most: float
) -> tuple[Losses, tuple[tuple[int, float | None], ...]]:
    """``alone`` and ``without`` of ``strategies.round.events.Measured``; both empty if there is no witness.

    It takes one measurement an update, and ``2 + log2`` of their number more, each of a model made from the one before
    the step. ``most`` is the largest loss that is no explosion.
    """
    if witness is None:
        return (), ()

    def loss(numbers: Sequence[int], *, alone: bool) -> float | None:
        made = model.remade(((witness.counted(number), parts[number]) for number in numbers), rule)
        return finite(witness.held_out(made, alone=alone))

    losses = tuple(loss([number], alone=True) for number in range(len(parts)))
    ranked = worst_first(losses)
    without = left_out(len(parts), lambda count: loss(sorted(ranked[count:]), alone=False), most)
    return losses, tuple(without)
