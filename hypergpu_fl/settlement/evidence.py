"""Verification where books and chain meet: offline what the coordinator signed, online the contract's head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hypergpu_fl.chain import abi
from hypergpu_fl.chain.client import Client
from hypergpu_fl.chain.contract import LedgerContract, SessionStatus
from hypergpu_fl.chain.progress import check_chain_id, check_code
from hypergpu_fl.chain.signer import created_address
from hypergpu_fl.chain.transaction import SignedTransaction, decode_transaction
from hypergpu_fl.errors import ChainError, VerificationError
from hypergpu_fl.keccak import checksum_address
from hypergpu_fl.ledger.bundle import Bundle, RoundRecord, SessionRecord, TransactionRecord
from hypergpu_fl.ledger.proof import ContributionProof
from hypergpu_fl.ledger.verification import verify_bundle
from hypergpu_fl.settlement.books_seal import verify_seal
from strategies.prose import amount

_REMEDY = "the file was altered; take it from its source again and compare with the chain"

UNSEALED: Final = (
    "session.budget",  # follows from the rewards up to a few wei, but not where nobody earned
    "session.base_pay",  # likewise, but not where no work is recorded
    "session.simulated_keys",
    "transactions",
    "rounds.*.contributions.*.duplicate_of",
    "rounds.*.refused",
    "rounds.*.commit.state",
    "rounds.*.commit.block",
    "rounds.*.commit.gas_used",
)
"""Fields that nothing seals in books that the coordinator has not signed as a whole; nor how many rounds follow."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What verification found out about books that are consistent.

    Parameters
    ----------
    head : bytes
        Head after the last round.
    coordinator : str
        Address that may commit now: the one that opened the session, or the last one that it was handed over to.
    signed, ended : bool
        Whether the coordinator signed the books as a whole, and whether the run had ended by then.
    commits : int
        Number of rounds whose commit the coordinator signed.
    uncommitted : tuple of int
        Rounds that are not on the chain by the books' account; without a chain, those that the coordinator has not
        signed.
    """

    head: bytes
    coordinator: str
    signed: bool
    ended: bool
    commits: int
    uncommitted: tuple[int, ...]


def commit_calldata(session: bytes, round: int, root: bytes, model: bytes, rewards_root: bytes, owed: int) -> bytes:
    """Calldata of the transaction that commits a round."""
    return abi.encode_call("commitRound", session, round, root, model, rewards_root, owed)


def verify(bundle: Bundle) -> Findings:
    """Verify a bundle offline: the books, and everything that the coordinator signed of them.

    Books that are not closed or committed yet are no error here; the findings say so.

    Raises
    ------
    VerificationError
        At the first difference; names the round.
    """
    head = verify_bundle(bundle)
    coordinators = _coordinators(bundle)
    turn = 0
    for record in bundle.rounds:
        if record.commit is not None:
            sender = _verify_commit(bundle.session, record, record.commit)
            if sender not in coordinators[turn:]:
                raise VerificationError(
                    f"round {record.round}: the commit transaction's sender differs from the books", _REMEDY
                )
            turn = coordinators.index(sender, turn)
    if bundle.seal is not None:
        verify_seal(bundle, bundle.seal, coordinators[-1])
    if bundle.session.chain_id:
        uncommitted = [r.round for r in bundle.rounds if r.commit is None or r.commit.state in ("SIGNED", "SENT")]
    else:  # without a chain the coordinator's signature is all that seals a round
        uncommitted = [] if bundle.seal is not None else [r.round for r in bundle.rounds]
    return Findings(
        head,
        coordinators[-1],
        signed=bundle.seal is not None,
        ended=bundle.seal is not None and bundle.seal.ended,
        commits=sum(record.commit is not None for record in bundle.rounds),
        uncommitted=tuple(uncommitted),
    )


def _coordinators(bundle: Bundle) -> list[str]:
    """Check the transactions other than commits; returns the session's coordinators in order, from its hand-overs."""
    session, coordinators, proposed, seen = bundle.session, [bundle.session.coordinator], "", set[bytes]()
    for transaction in bundle.transactions:
        what = f"the {transaction.purpose} transaction"
        signed = _decoded(what, session, transaction)
        _same(what, "purpose", _fits(session, transaction, signed), True)
        _same(what, "first appearance", signed.hash not in seen, True)
        seen.add(signed.hash)
        if transaction.purpose == "accept":
            _same(what, "sender", signed.sender, proposed)
            coordinators.append(signed.sender)
        else:
            _same(what, "sender", signed.sender, coordinators[-1])
        if transaction.purpose == "propose":
            proposed = _second_address(signed.data)
    return coordinators


def _fits(session: SessionRecord, transaction: TransactionRecord, signed: SignedTransaction) -> bool:
    """Whether a transaction does what its purpose says."""
    if transaction.purpose == "deploy":
        return signed.to is None and created_address(signed.sender, signed.nonce) == session.contract
    if signed.to != session.contract:
        return False
    if transaction.purpose == "open":
        return signed.data == abi.encode_call("open", session.salt)
    if transaction.purpose == "fund":
        return signed.data[:36] == abi.encode_call("fundTo", session.id, 0)[:36]
    if transaction.purpose == "propose":
        return signed.data == abi.encode_call("proposeCoordinator", session.id, _second_address(signed.data))
    return transaction.purpose == "accept" and signed.data == abi.encode_call("acceptCoordinator", session.id)


def _verify_commit(session: SessionRecord, record: RoundRecord, commit: TransactionRecord) -> str:
    """Check a round's commit, except who may send it; returns the sender."""
    what = f"round {record.round}: the commit transaction"
    signed = _decoded(what, session, commit)
    expected = commit_calldata(session.id, record.round, record.root, record.model, record.rewards_root, record.owed)
    _same(what, "purpose", commit.purpose, "commit")
    _same(what, "contract", signed.to, session.contract)
    _same(what, "calldata", signed.data, expected)
    return signed.sender


def _decoded(what: str, session: SessionRecord, transaction: TransactionRecord) -> SignedTransaction:
    try:
        signed = decode_transaction(transaction.raw)
    except ChainError as error:
        raise VerificationError(f"{what}: {error.cause}", error.remedy) from None
    _same(what, "hash", transaction.hash, signed.hash)
    _same(what, "gas limit", transaction.gas_limit, signed.gas_limit)
    _same(what, "chain id", signed.chain_id, session.chain_id)
    if transaction.state in ("SIGNED", "SENT"):
        _same(what, "block and gas", (transaction.block, transaction.gas_used), (None, None))
    return signed


def _same(what: str, part: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise VerificationError(f"{what}'s {part} differs from the books", _REMEDY)


def _second_address(data: bytes) -> str:
    """Address that is a call's second argument, EIP-55."""
    return checksum_address(data[4 + 32 + 12 :][:20])


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
    committed, found = on_chain(session.id, session.chain_id, session.contract, client)
    if committed > len(bundle.rounds):
        raise VerificationError(
            f"round {len(bundle.rounds) + 1}: the chain holds {amount(committed, 'round')}, "
            f"the file {len(bundle.rounds)}",
            "take a newer file from its source",
        )
    head = bundle.rounds[committed - 1].head if committed else session.id
    if found != head:
        raise VerificationError(
            f"round {committed}: the chain's head is 0x{found.hex()}, the file's 0x{head.hex()}", _REMEDY
        )
    return committed


def verify_proof_on_chain(proof: ContributionProof, client: Client) -> None:
    """Compare a verified proof or receipt with the contract, which stores the head after every round.

    Raises
    ------
    VerificationError
        If the chain's head after the proof's last round is not the proof's.
    ChainError
        If chain or contract is not the proof's, or no endpoint answers.
    """
    session, last = proof.value[0], proof.commitments[-1].round
    committed, _ = on_chain(session, proof.chain_id, proof.contract, client)
    if committed < last:
        raise VerificationError(f"round {last} is not committed: the chain holds {amount(committed, 'round')}", _REMEDY)
    found = LedgerContract(client, proof.contract).head_after(session, last)
    if found != proof.head:
        raise VerificationError(
            f"round {last}: the chain's head is 0x{found.hex()}, the proof's 0x{proof.head.hex()}", _REMEDY
        )


def on_chain(session: bytes, chain_id: int, contract: str, client: Client) -> tuple[int, bytes]:
    """Number of a session's rounds that the contract holds, and its head; errors as `verify_on_chain`."""
    check_chain_id(client, chain_id)
    check_code(client, contract)
    state = LedgerContract(client, contract).session(session)
    if state.status is SessionStatus.NONE:
        raise VerificationError("the session does not exist on chain", "it may not be sent yet: see `ledger show`")
    return state.next - 1, state.head
