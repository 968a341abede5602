"""Rounds as the strategy would hand them over, signed by derived keys."""

from __future__ import annotations

from functools import cache

from hypergpu_fl.ledger.contribution import WEIGHT_UNIT, Contribution, CreditedContribution, hash_blob, hash_metrics
from hypergpu_fl.ledger.identity import NodeKey, derive_simulated_key, sign_contribution
from hypergpu_fl.ledger.pricing import PricedContribution, Pricing
from hypergpu_fl.ledger.sealing import Refusal, RoundSeal


@cache
def node_key(index: int) -> NodeKey:
    return derive_simulated_key(7, index)


def a_pricing(nodes: int) -> Pricing:
    priced = [PricedContribution(value=100 + index, work=1) for index in range(nodes)]
    return Pricing(scoring="any/1", loss_before=2000, loss_after=None, movements=1, contributions=priced)


def a_round(
    session: bytes, round: int, *, nodes: int = 3, log_head: bytes | None = None, pricing: Pricing | None = None
) -> RoundSeal:
    base, model = (hash_blob(b"model %d" % version) for version in (round - 1, round))
    credited = []
    for index in range(nodes):
        key = node_key(index)
        update = hash_blob(b"update %d %d" % (round, index))
        contribution = Contribution(session, round, base, update, 100 + index, hash_metrics({"loss": 0.5}))
        signature = sign_contribution(key, contribution)
        credited.append(CreditedContribution(contribution, key.address, signature, WEIGHT_UNIT // nodes, 100 + index))
    refused = [Refusal(node_key(0).address, "too late", "12 s")]
    return RoundSeal(round, base, model, credited, refused, {"accuracy": 0.9}, log_head, pricing)
