"""A session changes hands: the coordinator offers it, the next one accepts.

Both transactions stay in the run's books, so that a verifier knows whose commits to expect.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Literal

from hypergpu_fl.chain import abi
from hypergpu_fl.chain.client import Client
from hypergpu_fl.chain.contract import LedgerContract
from hypergpu_fl.chain.embedded import CHAIN_ID
from hypergpu_fl.chain.errors import Misconfigured, Unavailable
from hypergpu_fl.chain.lock import KeyLock
from hypergpu_fl.chain.outbox import EntryState, Intent, Outbox
from hypergpu_fl.chain.sender import Sender
from hypergpu_fl.chain.signer import Signer
from hypergpu_fl.errors import LedgerError
from hypergpu_fl.files import exclusive
from hypergpu_fl.keccak import address_word
from hypergpu_fl.ledger import database
from hypergpu_fl.runs import BOOKS_LOCK
from hypergpu_fl.settlement.reading import DATABASE, read_record
from strategies.prose import amount

_WAIT_S: Final = 60.0


def offer(folder: Path, client_of: Callable[[int], Client], signer: Signer, to: str, *, max_fee: int) -> dict[str, str]:
    """Offer a run's session to `to`, and wait until that is final; see `_send` for the rest."""
    return _send("propose", folder, client_of, signer, to, max_fee)


def accept(folder: Path, client_of: Callable[[int], Client], signer: Signer, *, max_fee: int) -> dict[str, str]:
    """Accept a session that was offered to the signer, and wait until that is final; see `_send` for the rest."""
    return _send("accept", folder, client_of, signer, signer.address, max_fee)


def _send(
    purpose: Literal["propose", "accept"],
    folder: Path,
    client_of: Callable[[int], Client],
    signer: Signer,
    to: str,
    max_fee: int,
) -> dict[str, str]:
    """Send one transaction through the run's outbox, so that its bytes are kept whatever happens.

    Parameters
    ----------
    folder : Path
        The run.
    client_of : Callable[[int], Client]
        Makes the client of a chain id.
    signer : Signer
        Key of the coordinator, or of the one who accepts.
    to : str
        EIP-55 address of the next coordinator.
    max_fee : int
        Wei a gas at most.

    Raises
    ------
    LedgerError
        If the run is at work, has no real chain, or has commits under way.
    ChainError
        If the session is not the signer's to hand over or to accept, or the chain refuses the transaction.
    """
    with ExitStack() as held:
        busy = LedgerError(f"the books in {folder} are open in another process", "stop the run first")
        held.enter_context(exclusive(folder / BOOKS_LOCK, busy))
        engine = database.connect(folder / DATABASE)
        held.callback(engine.dispose)
        database.metadata.create_all(engine)
        record = read_record(engine)
        if record is None or record.chain_id in (0, CHAIN_ID):
            raise LedgerError("the run has no session on a chain that outlives it", "there is nothing to hand over")
        held.enter_context(KeyLock(folder.parent / ".locks", record.chain_id, signer.address))
        outbox, client = Outbox(engine, signer.address, record.chain_id), client_of(record.chain_id)
        waiting = [entry for entry in outbox.history() if entry.state is not EntryState.FINALIZED]
        intent = Intent(purpose, record.contract, record.id, _call(purpose, record.id, to), after=address_word(to))
        if [entry.intent for entry in waiting] != [intent]:  # otherwise an earlier call was cut off; finish it
            if waiting:
                raise LedgerError(
                    f"not final yet: {amount(len(waiting), 'transaction')} of the run", "resume it, then hand it over"
                )
            state = LedgerContract(client, record.contract).session(record.id)
            allowed = state.coordinator if purpose == "propose" else state.pending_coordinator
            if signer.address != allowed:
                raise Misconfigured(
                    f"the session is {allowed}'s to {purpose}, the key is {signer.address}",
                    "use that key; `chain hand-over` offers a session, `chain take-over` accepts it",
                )
            with engine.begin() as connection:
                outbox.put(connection, intent)
        _drain(Sender([outbox], client, signer, max_fee=max_fee))
    return {"session": "0x" + record.id.hex(), purpose: to}


def _call(purpose: str, session: bytes, to: str) -> bytes:
    if purpose == "propose":
        return abi.encode_call("proposeCoordinator", session, to)
    return abi.encode_call("acceptCoordinator", session)


def _drain(sender: Sender) -> None:
    deadline = time.monotonic() + _WAIT_S
    while (pause := sender.step()) is not None:
        if time.monotonic() > deadline:
            raise sender.problem or Unavailable("the transaction is not final yet", "give the command again")
        time.sleep(pause)
