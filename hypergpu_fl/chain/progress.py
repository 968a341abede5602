"""How far the chain has come with an intent, judged from the contract's state alone."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from hypergpu_fl.chain import abi
from hypergpu_fl.chain.client import Client, Tag
from hypergpu_fl.chain.contract import LedgerContract, SessionState, SessionStatus
from hypergpu_fl.chain.errors import Misconfigured
from hypergpu_fl.chain.outbox import Intent
from hypergpu_fl.keccak import address_word, keccak


class IntentProgress(Enum):
    """What a block shows of an intent."""

    BEHIND = "an earlier intent is not done yet, or the block is old"
    DUE = "everything before it is done, but it is not"
    DONE = "its effect is there"
    FOREIGN = "the session has a history that is not ours"


def commit_progress(state: SessionState, intent: Intent, head_after: Callable[[int], bytes | None]) -> IntentProgress:
    """Progress of a commit.

    Parameters
    ----------
    state : SessionState
        Session on chain.
    intent : Intent
        The commit.
    head_after : Callable[[int], bytes | None]
        Head that our books have after a round; None for a round they do not have.
    """
    if state.status is SessionStatus.NONE or state.next < intent.round:
        return IntentProgress.BEHIND
    if state.next == intent.round:
        return IntentProgress.DUE if state.head == intent.before else IntentProgress.FOREIGN
    return IntentProgress.DONE if state.head == head_after(state.next - 1) else IntentProgress.FOREIGN


def progress(client: Client, intent: Intent, tag: Tag, head_after: Callable[[int], bytes | None]) -> IntentProgress:
    """Ask the chain how far it is with any intent.

    Only the head of a commit can prove a foreign history. A session that is open is ours, because its id binds the
    coordinator. A pool that is large enough needs no more money, whoever filled it.
    """
    if intent.purpose == "deploy":
        return IntentProgress.DONE if keccak(client.code(intent.contract)) == abi.code_hash() else IntentProgress.DUE
    state = LedgerContract(client, intent.contract).session(intent.session, tag)
    if intent.purpose == "open":
        return IntentProgress.DUE if state.status is SessionStatus.NONE else IntentProgress.DONE
    if intent.purpose in ("propose", "accept"):
        there = [state.coordinator] + [state.pending_coordinator] * (intent.purpose == "propose")
        return IntentProgress.DONE if intent.after in map(address_word, there) else IntentProgress.DUE
    if intent.purpose == "fund":
        return IntentProgress.DONE if state.pool >= intent.pool else IntentProgress.DUE
    return commit_progress(state, intent, head_after)


def check_coordinator(client: Client, intent: Intent, signer: str) -> None:
    """Refuse to commit with a key that the contract would refuse.

    Raises
    ------
    Misconfigured
        If the session belongs to another coordinator.
    """
    coordinator = LedgerContract(client, intent.contract).session(intent.session).coordinator
    if coordinator != signer:
        raise Misconfigured(
            f"the session's coordinator is {coordinator}, the key is {signer}",
            "use the coordinator's key, or hand the session over",
        )


def check_chain_id(client: Client, expected: int) -> None:
    """Refuse another chain.

    Raises
    ------
    Misconfigured
        If the chain's id is not `expected`.
    """
    found = client.chain_id()
    if found != expected:
        raise Misconfigured(
            f"the RPC serves chain {found}, the run is bound to chain {expected}",
            "correct blockchain.rpc_url or blockchain.chain_id",
        )


def check_code(client: Client, contract: str) -> None:
    """Refuse a contract with other code.

    Raises
    ------
    Misconfigured
        If the code at the address is not the shipped contract's.
    """
    code = client.code(contract)
    if keccak(code) != abi.code_hash():
        raise Misconfigured(
            f"{contract} holds {'other code than the ledger contract' if code else 'no code'}",
            "correct blockchain.contract, or deploy with `chain deploy`",
        )
