"""Grants of rounds to an account as books or receipts prove them, and the calldata that claims them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from hypergpu_fl.chain import abi
from hypergpu_fl.errors import LedgerError, UsageError
from hypergpu_fl.ledger.bundle import Bundle
from hypergpu_fl.ledger.proof import Commitment, ContributionProof, commitment
from hypergpu_fl.ledger.reward_tree import RewardTree, Sum

ROUNDS_A_CLAIM: Final = 24
"""Most rounds in one transaction: with 5,000 accounts they take about as much gas as `MOST_CALL_GAS` allows."""


@dataclass(frozen=True, slots=True)
class Holdings:
    """Grants to one account, and the history that proves them.

    Parameters
    ----------
    session : bytes
        Session id.
    chain_id : int
        Chain that the session is on.
    contract, account : str
        EIP-55 addresses.
    amounts : Mapping[int, int]
        Round to what it granted to the account, in wei; rounds in ascending order.
    heads : Mapping[int, bytes]
        Round to the head after it, as far as known; the session id for round 0.
    commitments : Mapping[int, Commitment]
        Round to its commitment, as far as known; for every round in `amounts`, it and the round before are known.
    prove : Callable
        Siblings of the account's leaf in the reward tree of a round in `amounts`.
    """

    session: bytes
    chain_id: int
    contract: str
    account: str
    amounts: Mapping[int, int]
    heads: Mapping[int, bytes]
    commitments: Mapping[int, Commitment]
    prove: Callable[[int], Sequence[Sum]]

    def batches(self, rounds: Sequence[int]) -> Iterator[list[int]]:
        """Split ascending rounds into runs of which each fits into one transaction."""
        batch: list[int] = []
        for round in rounds:
            missing = batch and any(between not in self.commitments for between in range(batch[-1], round))
            if batch and (missing or round - batch[0] >= ROUNDS_A_CLAIM):
                yield batch
                batch = []
            batch.append(round)
        if batch:
            yield batch

    def calldata(self, rounds: Sequence[int]) -> bytes:
        """Calldata of the transaction that pays what a run of rounds granted."""
        first = max(rounds[0] - 1, 1)  # the round before tells what the first one added
        shown = (self.commitments[round] for round in range(first, rounds[-1] + 1))
        history = [(c.round, c.root, c.model, c.rewards, c.owed) for c in shown]
        grants = [(round, self.amounts[round], self.prove(round)) for round in rounds]
        return abi.encode_call("claim", self.session, self.account, self.heads[first - 1], history, grants)


def head_after(bundle: Bundle, round: int) -> bytes:
    """Head after a round of a bundle; the session id after round 0."""
    return bundle.rounds[round - 1].head if round else bundle.session.id


def held_in_bundle(bundle: Bundle, account: str, *, upto: int | None = None) -> Holdings:
    """Grants to an account in the rounds of a verified bundle, up to round `upto`, the last one if None."""
    session, records = bundle.session, bundle.rounds[:upto]
    amounts = {record.round: record.earned.get(account, 0) for record in records}
    return Holdings(
        session.id,
        session.chain_id,
        session.contract,
        account,
        {round: wei for round, wei in amounts.items() if wei},
        {round: head_after(bundle, round) for round in range(len(records) + 1)},
        {record.round: commitment(record) for record in records},
        lambda round: RewardTree(session.id, records[round - 1].earned).proof(account),
    )


def held_in_receipts(receipts: Sequence[ContributionProof]) -> Holdings:
    """Grants that verified receipts or proofs of one node hold. All must be of one history.

    Raises
    ------
    LedgerError
        If none of them holds a grant.
    UsageError
        If they are of more than one node or session.
    """
    if len({(receipt.value[0], receipt.value[3], receipt.chain_id, receipt.contract) for receipt in receipts}) > 1:
        raise UsageError("the receipts are of several nodes or sessions", "give those of one node and session")
    heads: dict[int, bytes] = {}
    commitments: dict[int, Commitment] = {}
    amounts: dict[int, int] = {}
    siblings: dict[int, list[Sum]] = {}
    for receipt in sorted(receipts, key=lambda receipt: receipt.commitments[0].round):
        grant, round = receipt.grant, receipt.commitments[0].round
        if grant is None:
            continue
        amounts[round], siblings[round] = grant.amount, [Sum(*sibling) for sibling in grant.proof]
        known = [*([grant.previous] if grant.previous else []), *receipt.commitments]
        head = heads[known[0].round - 1] = grant.before
        for c in known:
            heads[c.round] = head = c.head_after(head)
            commitments[c.round] = c
    if not amounts:
        raise LedgerError("the receipts hold nothing that a round granted", "there is nothing to claim with them")
    one = receipts[0]
    return Holdings(
        one.value[0], one.chain_id, one.contract, one.value[3], amounts, heads, commitments, siblings.__getitem__
    )
