"""A node claims what it earned: the contract pays each round's grant once, against a proof through the head chain."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from hypergpu_fl.chain.client import Client
from hypergpu_fl.chain.contract import LedgerContract
from hypergpu_fl.chain.direct import FinalTransaction, send_and_wait
from hypergpu_fl.chain.errors import Reverted
from hypergpu_fl.chain.progress import check_chain_id, check_code
from hypergpu_fl.chain.signer import Signer
from hypergpu_fl.errors import LedgerError
from hypergpu_fl.ledger.bundle import Bundle
from hypergpu_fl.ledger.proof import ContributionProof
from hypergpu_fl.ledger.rewards import RewardDistribution
from hypergpu_fl.ledger.sealing import paid_entries
from hypergpu_fl.settlement.evidence import on_chain
from hypergpu_fl.settlement.grants import Holdings, head_after, held_in_bundle, held_in_receipts
from strategies.prose import amount


@dataclass(frozen=True, slots=True)
class Payout:
    """A payout: the account, the wei paid now and in total, the rounds paid for, and the transactions, oldest first."""

    account: str
    amount: int
    cumulative: int
    rounds: tuple[int, ...]
    sent: tuple[FinalTransaction, ...]


def distribution(bundle: Bundle, *, upto: int | None = None) -> RewardDistribution:
    """Cumulative rewards and standings after round `upto` of a bundle, the last one if None."""
    rewards = RewardDistribution(bundle.session.id, {})
    for record in bundle.rounds[:upto]:
        entries = paid_entries([(entry.node, entry.score) for entry in record.contributions], record.pricing)
        rewards = rewards.after(entries, [entry.reward for entry in record.contributions], bundle.session.pay)
    return rewards


def shared_rounds(bundle: Bundle, client: Client) -> int:
    """Number of rounds that a verified bundle has in common with the chain.

    The chain may have gone on since the bundle was written, even with other rounds than the bundle's. Commits take
    nothing back, so whoever holds the bundle can claim up to the last common round.

    Raises
    ------
    VerificationError
        If the session does not exist on chain.
    ChainError
        If chain or contract is not the bundle's, or no endpoint answers.
    """
    session, contract = bundle.session, LedgerContract(client, bundle.session.contract)
    committed, _ = on_chain(session.id, session.chain_id, session.contract, client)
    most = min(committed, len(bundle.rounds))

    def differs(round: int) -> bool:
        return contract.head_after(session.id, round) != head_after(bundle, round)

    if not differs(most):  # the usual case, in one call
        return most
    return bisect_left(range(1, most), True, key=differs)


def claim(bundle: Bundle, client: Client, signer: Signer, account: str, *, max_fee: int) -> Payout:
    """Send `account` what it earned in the committed rounds of a bundle and has not yet been paid.

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
        If the account earned nothing, or has been paid everything.
    ChainError
        If it is another chain, or the contract refuses.
    """
    committed = shared_rounds(bundle, client)
    held = held_in_bundle(bundle, account, upto=committed)
    if not held.amounts:
        raise LedgerError(
            f"{account} earned nothing in the {amount(committed, 'round')} that the file shares with the chain",
            "see who earned what with `rewards`, and what the chain holds with `ledger verify --rpc`",
        )
    return _send(held, client, signer, max_fee)


def claim_with_receipts(
    receipts: Sequence[ContributionProof], client: Client, signer: Signer, *, max_fee: int
) -> Payout:
    """Send a node what the rounds of its receipts granted and it has not yet been paid; this needs no ledger.

    The receipts must be verified. Those of rounds that the chain does not hold are skipped. Parameters and errors are
    those of `claim`.
    """
    for receipt in receipts[:1]:
        check_chain_id(client, receipt.chain_id)
        check_code(client, receipt.contract)
    committed = [
        receipt
        for receipt in receipts
        if LedgerContract(client, receipt.contract).head_after(receipt.value[0], receipt.commitments[-1].round)
        == receipt.head
    ]
    if not committed:
        raise LedgerError("the chain holds none of the rounds of these receipts", "they may not be committed yet")
    held = held_in_receipts(committed)
    return _send(held, client, signer, max_fee)


def _send(held: Holdings, client: Client, signer: Signer, max_fee: int) -> Payout:
    """Claim what has not been paid yet; if this fails halfway, the next try continues where it stopped."""
    granted, cumulative = list(held.amounts), sum(held.amounts.values())
    paid = LedgerContract(client, held.contract).paid_rounds(held.session, held.account, granted[-1])
    due = [round for round in granted if round not in paid]
    if not due:
        raise LedgerError(f"{held.account} has been paid all of its {cumulative} wei", "there is nothing left to claim")
    sent = []
    for rounds in held.batches(due):
        data = held.calldata(rounds)
        try:
            sent.append(
                send_and_wait(client, signer, to=held.contract, data=data, chain_id=held.chain_id, max_fee=max_fee)
            )
        except Reverted as error:
            raise LedgerError(error.cause, "somebody may have claimed it meanwhile: try again") from None
    return Payout(held.account, sum(held.amounts[round] for round in due), cumulative, tuple(due), tuple(sent))
