"""A node claims what it earned: the contract pays each round's grant once, against a proof through the head chain."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from hypergpu_fl.chain import abi
from hypergpu_fl.chain.client import Client
from hypergpu_fl.chain.contract import LedgerContract, Status
from hypergpu_fl.chain.direct import Sent, send_and_wait
from hypergpu_fl.chain.errors import Reverted
from hypergpu_fl.chain.progress import check_chain_id, check_code
from hypergpu_fl.chain.signer import Signer
from hypergpu_fl.errors import LedgerError, VerificationError
from hypergpu_fl.ledger.bundle import Bundle, RoundRecord
from hypergpu_fl.ledger.reward_tree import RewardTree
from hypergpu_fl.ledger.rewards import RewardDistribution, summed

ROUNDS_A_CLAIM: Final = 24
"""Rounds that one transaction shows: among 5,000 accounts they take about as much gas as `MOST_CALL_GAS` allows."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A payout: to whom, how many wei now and in all, for which rounds, and the transactions, the oldest first."""

    account: str
    amount: int
    cumulative: int
    rounds: tuple[int, ...]
    sent: tuple[Sent, ...]


def distribution(bundle: Bundle, *, upto: int | None = None) -> RewardDistribution:
    """Cumulative rewards after round `upto` of a bundle, the last one if None."""
    rewards = RewardDistribution(bundle.session.id, {})
    for record in bundle.rounds[:upto]:
        rewards = rewards.after(_earned(record))
    return rewards


def earned_by_round(bundle: Bundle, account: str, *, upto: int | None = None) -> dict[int, int]:
    """What each round up to `upto` granted to an account, in wei; rounds that granted it nothing are left out."""
    earned = {record.round: summed(_earned(record)).get(account, 0) for record in bundle.rounds[:upto]}
    return {number: wei for number, wei in earned.items() if wei}


def shared_rounds(bundle: Bundle, client: Client) -> int:
    """Number of rounds that a verified bundle has in common with the chain.

    The bundle may be older than the chain, and it may have gone on otherwise: what a coordinator committed since then
    takes nothing back, so whoever holds a bundle claims up to here.

    Raises
    ------
    VerificationError
        If the session does not exist on chain.
    ChainError
        If chain or contract is not the bundle's, or no endpoint answers.
    """
    session = bundle.session
    check_chain_id(client, session.chain_id)
    check_code(client, session.contract)
    contract = LedgerContract(client, session.contract)
    state = contract.session(session.id)
    if state.status is Status.NONE:
        raise VerificationError("the session does not exist on chain", "it may not be sent yet: see `ledger show`")
    most = min(state.next - 1, len(bundle.rounds))

    def differs(number: int) -> bool:
        return contract.head_after(session.id, number) != _head(bundle, number)

    if not differs(most):  # the usual case, in one call
        return most
    return bisect_left(range(1, most), True, key=differs)


def claim_calldata(bundle: Bundle, account: str, rounds: Sequence[int]) -> bytes:
    """Calldata of the transaction that pays what `rounds` granted to an account.

    Parameters
    ----------
    bundle : Bundle
        A verified bundle.
    account : str
        EIP-55 address that earned in each of the rounds.
    rounds : Sequence[int]
        Committed rounds in ascending order.
    """
    first = max(rounds[0] - 1, 1)  # the round before tells what the first one added
    history = [
        (record.round, record.root, record.model, record.rewards_root, record.owed)
        for record in bundle.rounds[first - 1 : rounds[-1]]
    ]
    grants = []
    for number in rounds:
        earned = summed(_earned(bundle.rounds[number - 1]))
        grants.append((number, earned[account], RewardTree(bundle.session.id, earned).proof(account)))
    return abi.encode_call("claim", bundle.session.id, account, _head(bundle, first - 1), history, grants)


def claim(bundle: Bundle, client: Client, signer: Signer, account: str, *, max_fee: int) -> Claim:
    """Send `account` what it earned in the committed rounds of a bundle, and has not been paid.

    A claim that fails halfway goes on where it stopped when it is sent again.

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
    committed = shared_rounds(bundle, client)
    earned = earned_by_round(bundle, account, upto=committed)
    cumulative = sum(earned.values())
    if not earned:
        raise LedgerError(
            f"{account} earned nothing in the {committed} rounds that the file shares with the chain",
            "see who earned what with `rewards`, and what the chain holds with `ledger verify --rpc`",
        )
    contract, chain_id = bundle.session.contract, bundle.session.chain_id
    paid = LedgerContract(client, contract).paid_rounds(bundle.session.id, account, committed)
    due = [number for number in earned if number not in paid]
    if not due:
        raise LedgerError(f"{account} has been paid all of its {cumulative} wei", "there is nothing left to claim")
    sent = []
    for rounds in _batches(due):
        data = claim_calldata(bundle, account, rounds)
        try:
            sent.append(send_and_wait(client, signer, to=contract, data=data, chain_id=chain_id, max_fee=max_fee))
        except Reverted as error:
            raise LedgerError(error.cause, "somebody may have claimed it meanwhile: try again") from None
    return Claim(account, sum(earned[number] for number in due), cumulative, tuple(due), tuple(sent))


def _head(bundle: Bundle, number: int) -> bytes:
    return bundle.rounds[number - 1].head if number else bundle.session.id


def _earned(record: RoundRecord) -> list[tuple[str, int]]:
    return [(entry.node, entry.reward) for entry in record.contributions]


def _batches(rounds: Sequence[int]) -> Iterator[list[int]]:
    """Rounds in as few runs as one transaction each can show."""
    batch: list[int] = []
    for number in rounds:
        if batch and number - batch[0] >= ROUNDS_A_CLAIM:
            yield batch
            batch = []
        batch.append(number)
    yield batch
