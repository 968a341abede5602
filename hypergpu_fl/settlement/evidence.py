"""Verification where books and chain meet: signed commits offline, the contract's head online."""

from __future__ import annotations

from hypergpu_fl.chain import abi
from hypergpu_fl.chain.client import Client
from hypergpu_fl.chain.contract import LedgerContract, Status
from hypergpu_fl.chain.evidence import decode_transaction
from hypergpu_fl.chain.progress import check_chain_id, check_code
from hypergpu_fl.errors import ChainError, VerificationError
from hypergpu_fl.ledger.bundle import Bundle, RoundRecord, SessionRecord, TransactionRecord
from hypergpu_fl.ledger.verification import verify_bundle

_REMEDY = "the file was altered; take it from its source again and compare with the chain"


def commit_calldata(session: bytes, number: int, root: bytes, model: bytes, rewards_root: bytes, owed: int) -> bytes:
    """Calldata of the transaction that commits a round."""
    return abi.encode_call("commitRound", session, number, root, model, rewards_root, owed)


def verify(bundle: Bundle) -> bytes:
    """Verify a bundle offline: the books, and that the coordinator signed a commit of exactly each round.

    Returns
    -------
    bytes
        Head after the last round.

    Raises
    ------
    VerificationError
        At the first difference; names the round.
    """
    head = verify_bundle(bundle)
    for record in bundle.rounds:
        if record.commit is not None:
            _verify_commit(bundle.session, record, record.commit)
    for transaction in bundle.transactions:
        if transaction.hash != decode_transaction(transaction.raw).hash:
            raise VerificationError(f"the {transaction.purpose} transaction's hash differs from its bytes", _REMEDY)
    return head


def _verify_commit(session: SessionRecord, record: RoundRecord, commit: TransactionRecord) -> None:
    expected = commit_calldata(session.id, record.round, record.root, record.model, record.rewards_root, record.owed)
    try:
        signed = decode_transaction(commit.raw)
    except ChainError as error:
        raise VerificationError(f"round {record.round}: commit: {error.cause}", error.remedy) from None
    for what, found, wanted in (
        ("hash", commit.hash, signed.hash),
        ("gas limit", commit.gas_limit, signed.gas_limit),
        ("sender", signed.sender, session.coordinator),
        ("chain id", signed.chain_id, session.chain_id),
        ("contract", signed.to, session.contract),
        ("calldata", signed.data, expected),
    ):
        if found != wanted:
            raise VerificationError(
                f"round {record.round}: the commit transaction's {what} differs from the books", _REMEDY
            )


def verify_on_chain(bundle: Bundle, client: Client) -> int:
    """Compare a verified bundle with the contract: one call for the whole history, no logs.

    Returns
    -------
    int
        Rounds that the chain holds.

    Raises
    ------
    VerificationError
        If the chain's head is not the bundle's head after as many rounds; names the round.
    ChainError
        If chain or contract is not the bundle's, or no endpoint answers.
    """
    session = bundle.session
    check_chain_id(client, session.chain_id)
    check_code(client, session.contract)
    state = LedgerContract(client, session.contract).session(session.id)
    if state.status is Status.NONE:
        raise VerificationError("the session does not exist on chain", "it may not be sent yet: see `ledger show`")
    committed = state.next - 1
    if committed > len(bundle.rounds):
        raise VerificationError(
            f"round {len(bundle.rounds) + 1}: the chain holds {committed} rounds, the file {len(bundle.rounds)}",
            "take a newer file from its source",
        )
    head = bundle.rounds[committed - 1].head if committed else session.id
    if state.head != head:
        raise VerificationError(
            f"round {committed}: the chain's head is 0x{state.head.hex()}, the file's 0x{head.hex()}", _REMEDY
        )
    return committed
