"""Between strategy and ledger: checks who contributed, and prices what it brought."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from hypergpu_fl.errors import LedgerError
from hypergpu_fl.ledger.contribution import WEIGHT_UNIT, Contribution, CreditedContribution, hash_metrics
from hypergpu_fl.ledger.identity import recover
from hypergpu_fl.ledger.near_copies import near_duplicates, sketch
from hypergpu_fl.ledger.scoring import (
    Coalition,
    gtg_shapley,
    improvement_score,
    leave_one_out,
    to_scores,
    weight_score,
)
from hypergpu_fl.ledger.sealing import Refusal, RoundSeal
from hypergpu_fl.settlement import Settlement
from hypergpu_fl.task import Task
from hypergpu_fl.task.user_code import user_code
from strategies.arrivals import Flight
from strategies.errors import Reason, Refused
from strategies.model.aggregation import Update
from strategies.model.layout import Layout, Vector
from strategies.model.statistics import VARIANCE
from strategies.outcome import RoundOutcome
from strategies.wire import ADDRESS, EXAMPLES, Hello, Reply

if TYPE_CHECKING:
    import torch

Scoring = Literal["improvement", "weight", "leave_one_out", "shapley"]

RECEIPTS_AT_ONCE = 8
MOST_EXAMPLES = 2**63 - 1  # the widest integer of SQL; the contract's uint64 would take twice that


@dataclass(frozen=True, slots=True)
class Admitted:
    """A reply's claim, verified: what was signed, by whom, and the signature."""

    contribution: Contribution
    node: str
    signature: bytes


class Accounting:
    """Verifies claims and prices rounds.

    Parameters
    ----------
    task : Task
        Its validation set prices the contributions.
    model : torch.nn.Module
        The task's; what is priced overwrites it. Its buffers are the first ones.
    settlement : Settlement
        Where sealed rounds go.
    layout : Layout
        The model's layout.
    device : torch.device
        Where contributions are priced.
    scoring : str
        ``improvement`` prices an update alone, ``weight`` without measuring; ``leave_one_out`` and ``shapley`` price it
        among the round's others and hold them all in memory. See ``hypergpu_fl.ledger.scoring``.
    max_examples : int
        Examples beyond this earn nothing.
    allowed : collection of str
        Addresses that may contribute; empty: everyone.
    seed : int
        Of the permutations that ``shapley`` draws.
    """

    def __init__(
        self,
        task: Task,
        model: torch.nn.Module,
        settlement: Settlement,
        layout: Layout,
        *,
        device: torch.device,
        scoring: Scoring = "improvement",
        max_examples: int = 10**6,
        allowed: Collection[str] = (),
        seed: int = 0,
    ) -> None:
        self._task = task
        self._settlement = settlement
        self._layout = layout
        self._variances = layout.runs((VARIANCE,))
        self._device = device
        self._scoring = scoring
        self._max_examples = max_examples
        self._allowed = frozenset(address.lower() for address in allowed)
        self._seed = seed
        self._model = model
        self._buffers = layout.buffers(task.arrays(self._model))
        self._signs_P = np.random.default_rng(0).choice(np.array([-1, 1], dtype=np.int8), size=layout.size)
        self._address_of: dict[int, str] = {}
        self._enclosed: dict[int, int] = {}  # node id -> last round among the receipts under way to it
        self._receipted: dict[str, int] = {}  # address -> last round among the receipts that arrived
        self._final: int | None = None  # last final round, asked for once a round
        self._counted: dict[str, int] = {}  # address -> last round whose work of it counted
        self._entries: list[_Entry] = []
        self._base_P: Vector | None = None
        self._base_loss = 0.0

    def joined(self, node_id: int, hello: Hello) -> None:
        """Remember which address a node says it signs with."""
        address = hello.device.get(ADDRESS)
        if isinstance(address, str) and len(address) == 42:
            self._address_of[node_id] = address

    def admit(self, flight: Flight, reply: Reply) -> Admitted:
        """Refuse a reply that is not signed by the node it was asked of, over exactly what it sent, or not for once."""
        claim, order = reply.claim, flight.order
        if claim is None or order is None:
            raise Refused(Reason.BAD_SIGNATURE, "the reply is not signed")
        try:
            contribution = Contribution(
                session=self._settlement.session,
                round=order.round,
                base_model=order.base_model,
                update_hash=reply.digest,
                examples=int(reply.metrics[EXAMPLES]),
                metrics_hash=hash_metrics(reply.metrics),
            )
            signer = recover(contribution, claim.signature)
        except (LedgerError, KeyError, ValueError, OverflowError) as error:
            raise Refused(Reason.BAD_SIGNATURE, str(error)) from error
        if signer != claim.address or signer != self._address_of.get(flight.node_id):
            raise Refused(Reason.BAD_SIGNATURE, f"signed by {signer}, not by the node that was asked")
        if self._allowed and signer.lower() not in self._allowed:
            raise Refused(Reason.NOT_ALLOWED, f"{signer} is not in blockchain.allow_list")
        if contribution.examples > MOST_EXAMPLES:
            raise Refused(Reason.MALFORMED, f"{contribution.examples} examples, at most {MOST_EXAMPLES} can be booked")
        if contribution.round <= self._counted.get(signer, 0):
            raise Refused(Reason.DUPLICATE, f"{signer} has been counted for round {self._counted[signer]} already")
        if flight.node_id in self._enclosed:
            self._receipted[signer] = self._enclosed.pop(flight.node_id)
        return Admitted(contribution, signer, claim.signature)

    def measure(self, update: Update, model_P: Vector) -> float | None:
        """Loss on the validation data of the model with this update alone, where contributions are priced by that."""
        if self._scoring != "improvement":
            return None
        moved_P = np.zeros(self._layout.size, dtype=np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is told by its loss
            update.add_to(moved_P, 1.0)
            moved_P += model_P
        return self._loss_when_moved(moved_P)

    def added(self, admitted: Admitted, update: Update, model_P: Vector, held_out_loss: float | None) -> None:
        """Enter an update that counts, with what ``measure`` found."""
        self._counted[admitted.node] = admitted.contribution.round
        if self._base_P is None:
            self._base_P = model_P
            self._base_loss = self._loss(model_P) if self._scoring == "improvement" else 0.0
        delta_P = np.zeros(self._layout.size, dtype=np.float32)
        update.add_to(delta_P, 1.0)
        entry = _Entry(admitted.contribution, admitted.node, admitted.signature, sketch(delta_P, self._signs_P))
        if held_out_loss is not None:
            entry.loss = held_out_loss
        elif self._scoring != "weight":
            entry.delta_P = delta_P
        self._entries.append(entry)

    def priced(self, outcome: RoundOutcome) -> RoundSeal:
        """The round as it goes into the books, every contribution with its score."""
        weights = [accepted.weight for accepted in outcome.accepted]
        examples = [accepted.examples for accepted in outcome.accepted]
        entries, scores = self._entries, self._scores(weights, examples, outcome.round)
        twins = near_duplicates(np.stack([entry.sketch for entry in entries])) if entries else []
        seal = RoundSeal(
            round=outcome.round,
            base_model=outcome.base_hash,
            model=outcome.model_hash,
            contributions=[
                CreditedContribution(
                    entry.contribution,
                    entry.node,
                    entry.signature,
                    weight=round(weight * WEIGHT_UNIT),
                    score=score,
                    duplicate_of=entries[twin].node if twin >= 0 else "",
                )
                for entry, weight, score, twin in zip(entries, weights, scores, twins, strict=True)
            ],
            refused=[Refusal(refused.node, str(refused.reason), refused.detail) for refused in outcome.refused],
            stats={"seconds": outcome.ended_s, "bytes_up": outcome.bytes_up, "bytes_down": outcome.bytes_down},
        )
        self._entries, self._base_P, self._final = [], None, None
        return seal

    def receipt(self, node_id: int) -> str:
        """Receipts of the node's contributions that have become final and that it has not answered to, as JSON."""
        address = self._address_of.get(node_id)
        if address is None:
            return ""
        if self._final is None:
            self._final = self._settlement.final_round()
        after = self._receipted.get(address, 0)
        receipts = self._settlement.receipts(address, after=after, upto=self._final, limit=RECEIPTS_AT_ONCE)
        if not receipts:
            return ""
        self._enclosed[node_id] = receipts[-1]["commitments"][0]["round"]
        return json.dumps(receipts)

    def _scores(self, weights: Sequence[float], examples: Sequence[int], round_: int) -> list[int]:
        """Scores by the ``examples`` that were agreed, which weights go by too; what a reply claims is no matter."""
        entries, most = self._entries, self._max_examples
        if self._scoring == "improvement":
            return [
                improvement_score(count, self._base_loss, entry.loss, max_examples=most)
                for entry, count in zip(entries, examples, strict=True)
            ]
        if self._scoring == "weight":
            return [
                weight_score(count, weight, max_examples=most) for count, weight in zip(examples, weights, strict=True)
            ]

        def loss(members: Coalition) -> float:
            total = sum(weights[i] for i in members)
            moved_P = np.copy(self._base_P) if self._base_P is not None else np.zeros(0, dtype=np.float32)
            for i in members:
                moved_P += np.float32(weights[i] / total) * entries[i].delta_P
            return self._loss_when_moved(moved_P)

        if self._scoring == "leave_one_out":
            return to_scores(leave_one_out(len(entries), loss)) if entries else []
        rng = np.random.default_rng([self._seed, round_])
        return to_scores(gtg_shapley(len(entries), loss, rng=rng)) if entries else []

    def _loss_when_moved(self, moved_P: Vector) -> float:
        """Loss of a model that few updates made: of a late or a thin one, a variance may come out negative."""
        for start, stop in self._variances:
            np.maximum(moved_P[start:stop], 0.0, out=moved_P[start:stop])
        return self._loss(moved_P)

    def _loss(self, model_P: Vector) -> float:
        self._task.load(self._model, self._layout.restore(model_P, self._buffers))
        with user_code("pricing a contribution on the validation data"):
            return self._task.validate(self._model, device=self._device).loss


@dataclass
class _Entry:
    """One contribution of the open round; ``loss`` or ``delta_P`` as the scoring asks."""

    contribution: Contribution
    node: str
    signature: bytes
    sketch: Vector
    loss: float = 0.0
    delta_P: Vector = field(default_factory=lambda: np.zeros(0, dtype=np.float32))
