"""What a closed round's contributions were worth, by the configured scoring on the task's validation data.

Names used here: P = values of the model, i = a contribution of the round.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from loguru import logger

from hypergpu_fl.errors import RunFailed, TaskError
from hypergpu_fl.ledger import aumann_shapley
from hypergpu_fl.ledger.blobs import Blobs
from hypergpu_fl.ledger.contribution import Contribution
from hypergpu_fl.ledger.near_copies import signs, sketch
from hypergpu_fl.ledger.pricing import PricedContribution, Pricing
from hypergpu_fl.ledger.public_movements import Span
from hypergpu_fl.ledger.scoring import (
    Coalition,
    gtg_shapley,
    improvement_score,
    leave_one_out,
    to_scores,
    weight_score,
)
from hypergpu_fl.ledger.work import credited_ms
from hypergpu_fl.pricing.rounds import PricedRounds
from hypergpu_fl.task import Task, differentiable
from hypergpu_fl.task.user_code import user_code
from strategies.model.aggregation import Update
from strategies.model.global_model import ModelStep
from strategies.model.layout import Arrays, Layout, Vector
from strategies.model.statistics import VARIANCE
from strategies.outcome import RoundOutcome

if TYPE_CHECKING:
    import torch

Scoring = Literal["aumann_shapley", "improvement", "weight", "leave_one_out", "shapley"]
AUDITED: tuple[Scoring, ...] = ("aumann_shapley", "shapley", "leave_one_out")
"""Scorings that need nothing but models; the others also use how many examples a node counts for."""
DEFAULT: Scoring = "aumann_shapley"
BLIND: Scoring = "shapley"  # instead of aumann_shapley for a task without gradients: the same kind of value, sampled


def scoring_of(named: Scoring | Literal["auto"], *, chain: bool) -> Scoring | None:
    """What ``blockchain.scoring`` means: without a chain nobody can be paid, so ``auto`` prices nothing there."""
    if named != "auto":
        return named
    return DEFAULT if chain else None


def versioned(scoring: Scoring) -> str:
    """The scoring as the books name it; its version rises whenever it would score the same round otherwise."""
    return f"{scoring}/{3 if scoring == 'leave_one_out' else 2}"


@dataclass(frozen=True, slots=True)
class Prices:
    """A round's scores, the node that each update copies (``""`` if none), and how the scores came about.

    ``pricing`` is None if updates are not priced: all scores are 0 then. ``sound`` is whether the round's model could
    be priced; if not, it has exploded, and nobody scores.
    """

    scores: Sequence[int]
    copies: Sequence[str]
    pricing: Pricing | None
    sound: bool = True


@dataclass(frozen=True, slots=True)
class _Entry:
    """One contribution of the open round."""

    node: str
    digest: bytes
    base_model: bytes
    sketch: Vector
    held_out_loss: float  # NaN where it was not measured, which earns nothing


@dataclass
class _Found:
    """Result of a scoring: ``scores`` are paid for, ``values`` are what each contribution brought in all.

    ``values`` None: the same as the scores. ``losses``: before and after the step, None if not measured.
    """

    scores: list[int]
    values: list[int] | None = None
    losses: tuple[float, float] | None = None
    movements: int = 0
    sound: bool = True


class Pricer:
    """Prices rounds.

    Parameters
    ----------
    task : Task
        Its validation set prices the contributions.
    model : torch.nn.Module
        The task's model with its first buffers; pricing overwrites its values.
    layout : Layout
        The model's layout.
    device : torch.device
        Where contributions are priced.
    scoring : str, optional
        See `hypergpu_fl.ledger.aumann_shapley` and `hypergpu_fl.ledger.scoring`; None prices nothing.
    max_examples : int
        Examples beyond this earn nothing.
    seed : int
        Seed of the permutations that ``shapley`` draws.
    blobs : Blobs
        Where the open round's updates are kept; pricing decodes them from there one at a time.
    rounds : PricedRounds
        What is kept of earlier rounds.
    decode : callable
        Decodes an update.
    """

    def __init__(
        self,
        task: Task,
        model: torch.nn.Module,
        layout: Layout,
        *,
        device: torch.device,
        scoring: Scoring | None,
        max_examples: int,
        seed: int,
        blobs: Blobs,
        rounds: PricedRounds,
        decode: Callable[[bytes], Update],
    ) -> None:
        self._task = task
        self._model = model
        self._layout = layout
        self._variances = layout.runs((VARIANCE,))
        self._device = device
        self._gradients = differentiable(task)
        self._buffers = layout.buffers(task.arrays(model))
        if scoring == "aumann_shapley" and (lacking := self._why_no_gradients()):
            logger.warning("{}: contributions are priced by {!r} instead", lacking, BLIND)
            scoring = BLIND
        self._scoring = scoring
        self._max_examples = max_examples
        self._seed = seed
        self._blobs = blobs
        self._rounds = rounds
        self._decode = decode
        self._entries: list[_Entry] = []
        self._digests: list[bytes] = []  # of the updates in the round that is open, or was closed last
        self._base_P: Vector | None = None

    def _why_no_gradients(self) -> str:
        """Why the first model has no gradient; empty if it has one. Later this would end the run."""
        if self._gradients is None:
            return "the task gives no gradient()"
        try:
            self._gradient(self._layout.flatten(self._task.arrays(self._model)), self._buffers)
        except TaskError as error:
            return f"the task gives no gradient(): {error.cause}"
        return ""

    def measure(self, update: Update, model_P: Vector) -> float | None:
        """Validation loss of the model with this update alone; None if the scoring does not need it."""
        if self._scoring != "improvement":
            return None
        moved_P = np.zeros(self._layout.size, dtype=np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # an overflow shows in the loss
            update.add_to(moved_P, 1.0)
            moved_P += model_P
        return self._loss_when_moved(moved_P)

    def added(
        self,
        node: str,
        contribution: Contribution,
        blob: bytes,
        update: Update,
        model_P: Vector,
        held_out_loss: float | None,
    ) -> None:
        """Enter an update that counts, with its bytes and the loss that ``measure`` returned."""
        if not self._entries:
            self._digests = []
        self._base_P = model_P
        digest = contribution.update_hash
        self._blobs.put(digest, blob)
        sketched = sketch(*update.kept(), signs(self._layout.size))
        self._digests.append(digest)
        loss = np.nan if held_out_loss is None else held_out_loss
        self._entries.append(_Entry(node, digest, contribution.base_model, sketched, loss))

    def counted(self, number: int) -> Update:
        """The update that was entered as number ``number`` in the round that is open, or was closed last."""
        return self._decode(self._blobs.get(self._digests[number]))

    def held_out(self, model_P: Vector, buffers: Arrays) -> float:
        """Validation loss of this model; NaN if it cannot be measured."""
        try:
            return self._loss(model_P, buffers)
        except TaskError:
            return math.nan

    def priced(self, outcome: RoundOutcome) -> Prices:
        """Price the closed round. A model that cannot be priced has exploded: that is in the result, not raised.

        Raises
        ------
        RunFailed
            If the model before the round cannot be priced either, so that no roll-back can help.
        """
        entries, self._entries = self._entries, []
        if self._scoring is None:
            return Prices([0] * len(entries), [""] * len(entries), None)
        try:
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # what is not finite scores nothing
                found = self._found(entries, outcome)
        except (TaskError, ArithmeticError, LookupError, ValueError) as error:
            logger.warning("round {} cannot be priced, and nobody scores: {}", outcome.round, error)
            found = _Found([0] * len(entries), sound=False)
        if not found.sound:
            self._check_base(outcome)
        scores, copies = self._shared(entries, outcome.round, found.scores)
        self._rounds.save(outcome.round)
        before, after = to_scores(found.losses) if found.losses else (None, None)
        work = credited_ms(
            [accepted.steps for accepted in outcome.accepted],
            [accepted.journey.total_s for accepted in outcome.accepted],
        )
        values = found.scores if found.values is None else found.values
        pricing = Pricing(
            scoring=versioned(self._scoring),
            loss_before=before,
            loss_after=after,
            movements=found.movements,
            contributions=[
                PricedContribution(value=value, work=done) for value, done in zip(values, work, strict=True)
            ],
        )
        return Prices(scores, copies, pricing, found.sound)

    def passed(self, outcome: RoundOutcome, scores: Sequence[int]) -> None:
        """Take a closed round as priced with these scores, and keep what later rounds need of it."""
        entries, self._entries = self._entries, []
        if outcome.step is not None:
            self._rounds.path(outcome.round, outcome.step.base_P, outcome.base_hash)
        self._shared(entries, outcome.round, scores)

    def _shared(
        self, entries: Sequence[_Entry], round: int, scores: Sequence[int]
    ) -> tuple[Sequence[int], Sequence[str]]:
        if not entries:
            return [], []
        nodes, sketches = [entry.node for entry in entries], np.stack([entry.sketch for entry in entries])
        return self._rounds.shared_work.shared(round, nodes, sketches, scores)

    def _check_base(self, outcome: RoundOutcome) -> None:
        """Raise if the model before the round has no loss, or no gradient, either."""
        if self._base_P is None:
            return
        try:
            loss = self._loss(self._base_P, outcome.buffers)
            if self._scoring == "aumann_shapley":
                self._gradient(self._base_P, outcome.buffers)
            cause = "" if math.isfinite(loss) else f"its validation loss is {loss}"
        except TaskError as error:
            cause, remedy = error.cause, error.remedy
        else:
            remedy = "look for NaN in the validation data, and lower training.learning_rate"
        if cause:
            raise RunFailed(
                f"round {outcome.round} cannot be priced, nor can the model before it, so no roll-back helps: {cause}",
                remedy,
            )

    def _found(self, entries: Sequence[_Entry], outcome: RoundOutcome) -> _Found:
        if not entries or self._base_P is None:
            return _Found([])
        weights = [accepted.weight for accepted in outcome.accepted]
        examples = [accepted.examples for accepted in outcome.accepted]
        if self._scoring == "aumann_shapley":
            return self._along(outcome.step, entries, outcome) if outcome.step else _Found([0] * len(entries))
        if self._scoring == "weight":
            most = self._max_examples
            pairs = zip(examples, weights, strict=True)
            return _Found([weight_score(count, weight, max_examples=most) for count, weight in pairs])
        if self._scoring == "improvement":
            return _Found(self._improvements(entries, examples, self._loss(self._base_P, self._buffers)))
        return self._among_coalitions(entries, weights, outcome)

    def _along(self, step: ModelStep, entries: Sequence[_Entry], outcome: RoundOutcome) -> _Found:
        """Values along the round's step, see `hypergpu_fl.ledger.aumann_shapley`, without what was public."""
        losses = tuple(self._loss(model_P, outcome.buffers) for model_P in (step.base_P, step.base_P + step.moved_P))
        if not all(map(math.isfinite, losses)):
            logger.warning("round {} scores nobody: the validation loss went from {} to {}", outcome.round, *losses)
            return _Found([0] * len(entries), sound=False)
        gradients = aumann_shapley.path_gradients(
            lambda model_P: self._gradient(model_P, outcome.buffers), step.base_P, step.moved_P
        )
        path = self._rounds.path(outcome.round, step.base_P, outcome.base_hash)
        span = Span(path.movements, gradients, still=step.still)
        own, whole = [], []
        for index, entry in enumerate(entries):
            entered, later = step.mean.entered(index), path.since(entry.base_model)
            if not entered.coefficient:
                own.append(0.0)
                whole.append(0.0)
                continue
            if entered.part_P is None:
                slopes = span.slopes(*self._decode(self._blobs.get(entry.digest)).kept(), later=later)
            else:
                slopes = span.slopes(None, entered.part_P, later=later)
            gains, chances = -entered.coefficient * slopes.own, entered.coefficient * slopes.chance
            own.append(aumann_shapley.credited(gains.tolist(), chances.tolist()))
            whole.append(aumann_shapley.value((-entered.coefficient * slopes.whole).tolist()))
        return _Found(to_scores(own), to_scores(whole), (losses[0], losses[1]), len(path.movements))

    def _improvements(self, entries: Sequence[_Entry], examples: Sequence[int], base_loss: float) -> list[int]:
        """Scores by the agreed ``examples``, which weights use too; what a reply claims does not count."""
        return [
            improvement_score(count, base_loss, entry.held_out_loss, max_examples=self._max_examples)
            for entry, count in zip(entries, examples, strict=True)
        ]

    def _among_coalitions(self, entries: Sequence[_Entry], weights: Sequence[float], outcome: RoundOutcome) -> _Found:
        """Values from the losses of plain means, which may break where the model, made by a robust rule, does not."""
        updates = [self._decode(self._blobs.get(entry.digest)) for entry in entries]

        def loss(members: Coalition) -> float:
            total = sum(weights[i] for i in members)
            moved_P = np.copy(self._base_P) if self._base_P is not None else np.zeros(0, dtype=np.float32)
            for i in members:
                updates[i].add_to(moved_P, weights[i] / total)
            try:
                return self._loss_when_moved(moved_P)
            except TaskError:
                return math.nan

        if not math.isfinite(loss(tuple(range(len(entries))))):
            sound = self._sound(outcome.step, outcome.buffers)
            if outcome.step is None or not sound:
                return _Found([0] * len(entries), sound=sound)
        if self._scoring == "leave_one_out":
            return _Found(to_scores(leave_one_out(len(entries), loss)))
        rng = np.random.default_rng([self._seed, outcome.round])
        return _Found(to_scores(gtg_shapley(len(entries), loss, rng=rng)))

    def _sound(self, step: ModelStep | None, buffers: Arrays) -> bool:
        """Whether a round's step leads to a finite loss; without a step, the model has been rolled back already."""
        return step is None or math.isfinite(self._loss(step.base_P + step.moved_P, buffers))

    def _loss_when_moved(self, moved_P: Vector) -> float:
        """Loss of a model that only some updates moved: a late or sparse update alone may make a variance negative."""
        for start, stop in self._variances:
            np.maximum(moved_P[start:stop], 0.0, out=moved_P[start:stop])
        return self._loss(moved_P, self._buffers)

    def _loss(self, model_P: Vector, buffers: Arrays) -> float:
        self._task.load(self._model, self._layout.restore(model_P, buffers))
        with user_code("pricing a contribution on the validation data"):
            return self._task.validate(self._model, device=self._device).loss

    def _gradient(self, model_P: Vector, buffers: Arrays) -> Vector:
        if self._gradients is None:
            raise RuntimeError("the task gives no gradients")
        self._task.load(self._model, self._layout.restore(model_P, buffers))
        gradient_P = np.zeros(self._layout.size, dtype=np.float32)
        with user_code("computing the gradient on the validation data"):
            found = self._gradients.gradient(self._model, device=self._device)
            for entry in self._layout.entries:
                if entry.is_float and entry.name in found:
                    gradient_P[entry.offset : entry.offset + entry.size] = found[entry.name].reshape(-1)
        return gradient_P
