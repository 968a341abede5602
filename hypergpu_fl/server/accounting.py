"""Between strategy and ledger: verifies claims, has contributions priced, and hands rounds to the books."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, replace

from hypergpu_fl.errors import LedgerError
from hypergpu_fl.ledger.contribution import (
    WEIGHT_UNIT,
    Contribution,
    CreditedContribution,
    enrolment_digest,
    hash_metrics,
)
from hypergpu_fl.ledger.identity import recover, recover_signer
from hypergpu_fl.ledger.sealing import Refusal, RoundSeal
from hypergpu_fl.pricing import Pricer
from hypergpu_fl.settlement import Settlement
from strategies.arrivals import Flight
from strategies.errors import Reason, Refused
from strategies.model.aggregation import Update
from strategies.model.layout import Arrays, Vector
from strategies.outcome import RoundOutcome
from strategies.wire import ADDRESS, EXAMPLES, Hello, Reply

RECEIPTS_AT_ONCE = 8
MOST_EXAMPLES = 2**63 - 1  # the widest integer of SQL; the contract's uint64 would take twice that


@dataclass(frozen=True, slots=True)
class Admitted:
    """A reply's claim, verified: what was signed, by whom, the signature, and the update's bytes."""

    contribution: Contribution
    node: str
    signature: bytes
    blob: bytes


class Accounting:
    """Verifies claims and enters them into the books.

    Parameters
    ----------
    settlement : Settlement
        Where sealed rounds go.
    pricer : Pricer
        Finds out what contributions were worth.
    allowed : collection of str
        Addresses that may contribute; empty: everyone.
    """

    def __init__(self, settlement: Settlement, pricer: Pricer, *, allowed: Collection[str] = ()) -> None:
        self._settlement = settlement
        self._pricer = pricer
        self._allowed = frozenset(address.lower() for address in allowed)
        self._address_of: dict[int, str] = {}
        self._enclosed: dict[int, int] = {}  # node id -> last round in the receipts last sent to it
        self._receipted: dict[str, int] = {}  # address -> last round in the receipts that reached it
        self._final: int | None = None  # last final round; looked up once per round
        self._counted: dict[str, int] = {}  # address -> last round for which its work counted
        self._admitted: list[Admitted] = []  # of the open round, in the order in which they were added

    def vet(self, node_id: int, hello: Hello) -> None:
        """Raise ``Refused`` for a node that does not prove its address: another's could be claimed while it is away."""
        if not hello.address:
            raise Refused(Reason.BAD_SIGNATURE, "it names no address that its updates are signed with")
        try:
            signer = recover_signer(
                enrolment_digest(self._settlement.session, node_id, hello.partition), hello.signature
            )
        except LedgerError as error:
            raise Refused(
                Reason.BAD_SIGNATURE, f"it does not prove that {hello.address} is its own: {error}"
            ) from error
        if signer != hello.address:
            raise Refused(Reason.BAD_SIGNATURE, f"it claims {hello.address}, and signs with another key")

    def joined(self, node_id: int, hello: Hello) -> None:
        """Remember the address that a node says it signs with."""
        address = hello.device.get(ADDRESS)
        if isinstance(address, str) and len(address) == 42:
            self._address_of[node_id] = address

    def admit(self, flight: Flight, reply: Reply) -> Admitted:
        """Verify that the node which was asked signed exactly what it sent, and was not counted for that round before.

        Raises ``Refused`` otherwise.
        """
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
        return Admitted(contribution, signer, claim.signature, reply.blob)

    def measure(self, update: Update, model_P: Vector) -> float | None:
        """See `Pricer.measure`."""
        return self._pricer.measure(update, model_P)

    def added(self, admitted: Admitted, update: Update, model_P: Vector, held_out_loss: float | None) -> None:
        """Enter an update that counts, with what ``measure`` found."""
        self._counted[admitted.node] = admitted.contribution.round
        self._pricer.added(admitted.node, admitted.contribution, admitted.blob, update, model_P, held_out_loss)
        self._admitted.append(replace(admitted, blob=b""))

    def counted(self, number: int) -> Update:
        """See `Pricer.counted`."""
        return self._pricer.counted(number)

    def held_out(self, model_P: Vector, buffers: Arrays) -> float:
        """See `Pricer.held_out`."""
        return self._pricer.held_out(model_P, buffers)

    def priced(self, outcome: RoundOutcome) -> tuple[RoundSeal, bool]:
        """The round as it goes into the books, every contribution with its score; and whether it could be priced."""
        entries, self._admitted, self._final = self._admitted, [], None
        prices = self._pricer.priced(outcome)
        seal = RoundSeal(
            round=outcome.round,
            base_model=outcome.base_hash,
            model=outcome.model_hash,
            contributions=[
                CreditedContribution(
                    entry.contribution,
                    entry.node,
                    entry.signature,
                    weight=round(accepted.weight * WEIGHT_UNIT),
                    score=score,
                    duplicate_of=copied,
                )
                for entry, accepted, score, copied in zip(
                    entries, outcome.accepted, prices.scores, prices.copies, strict=True
                )
            ],
            refused=[Refusal(refused.node, str(refused.reason), refused.detail) for refused in outcome.refused],
            stats={"seconds": outcome.ended_s, "bytes_up": outcome.bytes_up, "bytes_down": outcome.bytes_down},
            pricing=prices.pricing,
        )
        return seal, prices.sound

    def receipt(self, node_id: int) -> str:
        """Receipts for the node's final contributions that it has not acknowledged by a later reply, as JSON."""
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
