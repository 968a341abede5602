"""The hook between strategy and ledger: checks who contributed, scores what it brought, and books the round."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from flwr.app import Message

from hypergpu_fl.errors import LedgerError
from hypergpu_fl.ledger.contribution import WEIGHT_UNIT, Contribution, CreditedContribution, hash_blob, hash_metrics
from hypergpu_fl.ledger.identity import recover
from hypergpu_fl.ledger.sealing import Refusal, RoundSeal
from hypergpu_fl.settlement import Settlement
from hypergpu_fl.task import Task
from strategies import wire
from strategies.aggregation import Update
from strategies.arrivals import Flight
from strategies.errors import Reason, Refused
from strategies.layout import Layout, Vector
from strategies.round import RoundHook, RoundOutcome

if TYPE_CHECKING:
    import torch

SCORE_UNIT = 10**6


class Accounting(RoundHook):
    """Seals every round.

    Parameters
    ----------
    task : Task
        Its validation set prices the contributions.
    settlement : Settlement
        Where sealed rounds go.
    device : torch.device
        Where contributions are priced.
    allowed : collection of str
        Addresses that may contribute; empty: everyone.
    """

    def __init__(
        self,
        task: Task,
        settlement: Settlement,
        *,
        device: torch.device,
        allowed: Collection[str] = (),
    ) -> None:
        self._task = task
        self._settlement = settlement
        self._device = device
        self._allowed = frozenset(address.lower() for address in allowed)
        self._model = task.model()
        self._layout = Layout.of(task.arrays(self._model))
        self._buffers = self._layout.buffers(task.arrays(self._model))
        self._address_of: dict[int, str] = {}
        self._admitted: tuple[Contribution, str, bytes] | None = None
        self._credited: list[CreditedContribution] = []
        self._loss_before: float | None = None

    def admit(self, flight: Flight, reply: Message, blob: bytes) -> None:
        """Refuse a reply that is not signed by the node it was asked of, over exactly what it sent."""
        claim = dict(reply.content.config_records.get(wire.CONTRIBUTION) or {})
        metrics = wire.numbers(reply.content, wire.METRICS)
        signature = claim.get(wire.SIGNATURE)
        if not isinstance(signature, bytes):
            raise Refused(Reason.BAD_SIGNATURE, "the reply is not signed")
        try:
            contribution = Contribution(
                session=self._settlement.session,
                round=int(flight.plan[wire.ROUND]),
                base_model=bytes(flight.plan[wire.BASE_MODEL]),
                update_hash=hash_blob(blob),
                examples=int(metrics[wire.EXAMPLES]),
                metrics_hash=hash_metrics(metrics),
            )
            signer = recover(contribution, signature)
        except (LedgerError, KeyError, ValueError, OverflowError) as error:
            raise Refused(Reason.BAD_SIGNATURE, str(error)) from error
        if signer != claim.get(wire.ADDRESS) or signer != self._address_of.get(flight.node_id, signer):
            raise Refused(Reason.BAD_SIGNATURE, f"signed by {signer}, not by the node that was asked")
        if self._allowed and signer.lower() not in self._allowed:
            raise Refused(Reason.NOT_ALLOWED, f"{signer} is not in blockchain.allow_list")
        self._address_of[flight.node_id] = signer
        self._admitted = (contribution, signer, signature)

    def accepted(self, flight: Flight, reply: Message, update: Update, model_P: Vector) -> None:
        """Price the update that was just admitted: ``examples * max(0, relative fall of the validation loss)``."""
        if self._admitted is None:
            raise LedgerError("an update was accepted that was never admitted", "call the hooks in their order")
        contribution, signer, signature = self._admitted
        if self._loss_before is None:
            self._loss_before = self._loss(model_P)
        moved_P = model_P.copy()
        update.add_to(moved_P, 1.0)
        fall = max(0.0, 1.0 - self._loss(moved_P) / self._loss_before) if self._loss_before > 0 else 0.0
        score = round(contribution.examples * SCORE_UNIT * fall)
        self._credited.append(CreditedContribution(contribution, signer, signature, weight=0, score=score))

    def closed(self, outcome: RoundOutcome) -> None:
        """Book the round; the chain follows in the background."""
        self._settlement.seal(
            RoundSeal(
                round=outcome.round,
                base_model=outcome.base_hash,
                model=outcome.model_hash,
                contributions=[
                    replace(credited, weight=round(accepted.weight * WEIGHT_UNIT))
                    for credited, accepted in zip(self._credited, outcome.accepted, strict=True)
                ],
                refused=[Refusal(refused.node, str(refused.reason), refused.detail) for refused in outcome.refused],
                stats={"seconds": outcome.ended_s, "bytes_up": outcome.bytes_up, "bytes_down": outcome.bytes_down},
            )
        )
        self._credited, self._loss_before = [], None

    def _loss(self, model_P: Vector) -> float:
        self._task.load(self._model, self._layout.restore(model_P, self._buffers))
        return self._task.validate(self._model, device=self._device).loss
