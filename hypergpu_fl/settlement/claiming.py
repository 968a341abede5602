"""A node claims what it earned: the contract pays out against the proof of its cumulative reward."""

from __future__ import annotations

from dataclasses import dataclass

from hypergpu_fl.chain import abi
from hypergpu_fl.chain.client import Client
from hypergpu_fl.chain.contract import LedgerContract
from hypergpu_fl.chain.direct import Sent, send_and_wait
from hypergpu_fl.chain.errors import Reverted
from hypergpu_fl.chain.signer import Signer
from hypergpu_fl.errors import LedgerError
from hypergpu_fl.ledger.bundle import Bundle
from hypergpu_fl.ledger.rewards import RewardDistribution
from hypergpu_fl.settlement.evidence import verify_on_chain


@dataclass(frozen=True, slots=True)
class Claim:
    """A payout: to whom, how many wei now and in all, and the transaction."""

    account: str
    amount: int
    cumulative: int
    sent: Sent


def distribution(bundle: Bundle, *, upto: int | None = None) -> RewardDistribution:
    """Cumulative rewards after round `upto` of a bundle, the last one if None."""
    rewards = RewardDistribution(bundle.session.id, {})
    for record in bundle.rounds[:upto]:
        rewards = rewards.after((entry.node, entry.reward) for entry in record.contributions)
    return rewards


def claim(bundle: Bundle, client: Client, signer: Signer, account: str, *, max_fee: int) -> Claim:
    """Send `account` what it earned up to the last committed round, and has not been paid.

    Parameters
    ----------
    bundle : Bundle
        A verified bundle.
    client : Client
        The bundle's chain.
    signer : Signer
        Who pays for gas; need not be `account`.
    account : str
        EIP-55 address that earned.
    max_fee : int
        Wei a gas at most.

    Raises
    ------
    LedgerError
        If the account earned nothing, or has been paid all.
    ChainError
        If the chain is another, or refuses.
    """
    rewards = distribution(bundle, upto=verify_on_chain(bundle, client))
    cumulative = rewards.cumulative.get(account, 0)
    if not cumulative:
        raise LedgerError(f"{account} earned nothing in committed rounds", "see who earned what with `rewards`")
    session, contract = bundle.session.id, bundle.session.contract
    paid = LedgerContract(client, contract).claimed(session, account)
    if paid >= cumulative:
        raise LedgerError(f"{account} has been paid all of its {cumulative} wei", "there is nothing left to claim")
    data = abi.encode_call("claim", session, account, cumulative, rewards.proof(account))
    try:
        sent = send_and_wait(client, signer, to=contract, data=data, chain_id=bundle.session.chain_id, max_fee=max_fee)
    except Reverted as error:
        raise LedgerError(error.cause, "a newer round may have been committed: export the ledger again") from None
    return Claim(account, cumulative - paid, cumulative, sent)
