"""How a session finds its chain, key and contract, and what is checked before anything is sent."""

from __future__ import annotations

import logging
import secrets as randomness
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, inspect

from hypergpu_fl.chain import abi
from hypergpu_fl.chain.client import Client
from hypergpu_fl.chain.embedded import CHAIN_ID, EmbeddedChain
from hypergpu_fl.chain.errors import Misconfigured, Unavailable
from hypergpu_fl.chain.http import HttpChain
from hypergpu_fl.chain.lock import KeyLock
from hypergpu_fl.chain.outbox import EntryState, Intent, Outbox
from hypergpu_fl.chain.progress import check_chain_id, check_code
from hypergpu_fl.chain.sender import Sender
from hypergpu_fl.chain.signer import KeySigner, Signer, created_address
from hypergpu_fl.config import Blockchain, Secrets
from hypergpu_fl.keccak import keccak
from hypergpu_fl.ledger import database
from hypergpu_fl.ledger.books import open_session
from hypergpu_fl.ledger.bundle import SessionRecord, session_id
from hypergpu_fl.ledger.rewards import SHARES
from hypergpu_fl.settlement.reading import DATABASE, read_record
from hypergpu_fl.settlement.run_key import run_key

log = logging.getLogger(__name__)

NOWHERE = "0x" + "0" * 40


@dataclass(frozen=True, slots=True)
class Route:
    """A session's way to its chain: its record, key and outbox, and a function that makes its sender.

    `make_sender` runs on the sending thread, because importing an EVM takes seconds. A key that only this run uses
    needs no lock.
    """

    record: SessionRecord
    signer: Signer
    outbox: Outbox
    make_sender: Callable[[], Sender]
    lock: KeyLock | None = None


def coordinator_signer(blockchain: Blockchain, secrets: Secrets) -> Signer:
    """Coordinator's key: from ``HYPERGPU_COORDINATOR_KEY``, else from the keystore file.

    Raises
    ------
    Misconfigured
        If neither is given, or the keystore's password is not.
    """
    if secrets.coordinator_key is not None:
        return KeySigner.from_hex(secrets.coordinator_key.get_secret_value())
    if not blockchain.keystore:
        raise Misconfigured(
            "no coordinator key is given", "set blockchain.keystore to a file made with `keys new`, or the environment"
        )
    if secrets.keystore_password is None:
        raise Misconfigured("the keystore's password is not given", "set HYPERGPU_KEYSTORE_PASSWORD")
    return KeySigner.from_keystore(Path(blockchain.keystore).expanduser(), secrets.keystore_password.get_secret_value())


def session_without_chain(
    run_dir: Path, engine: Engine, blockchain: Blockchain, *, salt: bytes, simulated_keys: bool
) -> tuple[SessionRecord, Signer]:
    """Session of a run that keeps books only, and the key that signs them."""
    record = read_record(engine)
    signer = run_key(run_dir, address=record.coordinator if record else "")
    record = record or _stored(engine, 0, NOWHERE, signer.address, salt, blockchain, simulated_keys)
    return record, signer


def embedded_route(
    run_dir: Path, engine: Engine, blockchain: Blockchain, *, salt: bytes, rounds: int, simulated_keys: bool
) -> Route:
    """Way to an EVM inside this process, which first replays what an earlier process of the run had included."""
    record = read_record(engine)
    signer = run_key(run_dir, address=record.coordinator if record else "")
    outbox = Outbox(engine, signer.address, CHAIN_ID)
    if record is None:
        contract = created_address(signer.address, 0)
        record = _stored(
            engine, CHAIN_ID, contract, signer.address, salt, blockchain, simulated_keys, outbox, rounds, deploy=True
        )

    def make_sender() -> Sender:
        chain = replayed_chain(outbox, signer.address)
        return Sender([outbox], chain, signer, max_fee=_max_fee(blockchain))

    return Route(record, signer, outbox, make_sender)


def replayed_chain(outbox: Outbox, funded: str) -> EmbeddedChain:
    """Embedded EVM on which the included transactions of an outbox have run."""
    chain = EmbeddedChain(funded)
    for entry in outbox.entries():
        if entry.state in (EntryState.INCLUDED, EntryState.FINALIZED) and entry.settled_by is not None:
            chain.send_raw(entry.settled_by.raw)
    return chain


def rpc_route(
    run_dir: Path,
    engine: Engine,
    blockchain: Blockchain,
    secrets: Secrets,
    *,
    salt: bytes,
    rounds: int,
    simulated_keys: bool,
) -> Route:
    """Way to a real chain. Transactions that earlier runs left unsent with the same key go first.

    A new session mixes a random salt into the given one: unlike an embedded chain, a real chain remembers the last run
    of the same configuration.

    Raises
    ------
    ChainError
        If key, chain or contract is not what it must be. An unreachable endpoint is no error, unless the contract has
        to be deployed.
    """
    signer = coordinator_signer(blockchain, secrets)
    client = HttpChain(rpc_urls(blockchain.rpc_url), chain_id=blockchain.chain_id)
    lock = KeyLock(run_dir.parent / ".locks", blockchain.chain_id, signer.address)
    try:
        outbox = Outbox(engine, signer.address, blockchain.chain_id)
        outboxes = [*_leftovers(run_dir, signer.address, blockchain.chain_id), outbox]
        sender = Sender(outboxes, client, signer, max_fee=_max_fee(blockchain))
        record = read_record(engine)
        if record is None:
            deploy = not blockchain.contract
            if deploy:
                check_chain_id(client, blockchain.chain_id)
            contract = created_address(signer.address, sender.next_nonce()) if deploy else blockchain.contract
            preflight(client, blockchain.chain_id, contract, signer.address, deploy, blockchain.budget_wei * rounds)
            record = _stored(
                engine,
                blockchain.chain_id,
                contract,
                signer.address,
                keccak(salt + randomness.token_bytes(32)),
                blockchain,
                simulated_keys,
                outbox,
                rounds,
                deploy=deploy,
            )
            if deploy:  # at once, since the contract's address rests on the nonce
                sender.sign(outbox, outbox.entries()[0])
        else:
            _check_same(record, coordinator_of(outbox, record), blockchain, signer)
            preflight(client, blockchain.chain_id, record.contract, signer.address, deploy=True, pool=0)
    except BaseException:
        lock.close()
        raise
    return Route(record, signer, outbox, lambda: sender, lock)


def rpc_urls(text: str) -> list[str]:
    """Comma-separated RPC addresses as a list."""
    return [url.strip() for url in text.split(",") if url.strip()]


def ask_before_start(blockchain: Blockchain, secrets: Secrets, *, rounds: int) -> None:
    """Ask a real chain for what a new session needs of it, within seconds and without sending anything.

    Raises
    ------
    Unavailable
        If no endpoint answers.
    Misconfigured
        If there is no key, or chain id, code or balance is not what it must be.
    """
    signer = coordinator_signer(blockchain, secrets)
    client = HttpChain(rpc_urls(blockchain.rpc_url), chain_id=blockchain.chain_id)
    pool = blockchain.budget_wei * rounds
    deploy = not blockchain.contract
    _check_account(client, blockchain.chain_id, blockchain.contract, signer.address, deploy=deploy, pool=pool)


def preflight(client: Client, chain_id: int, contract: str, account: str, deploy: bool, pool: int) -> None:
    """Refuse before a run starts what can never work; let the run start if no endpoint answers.

    Parameters
    ----------
    client : Client
        Access to the chain.
    chain_id : int
        Expected chain id.
    contract, account : str
        EIP-55 addresses.
    deploy : bool
        Whether the contract need not be there yet.
    pool : int
        Wei that opening the session costs, besides gas.

    Raises
    ------
    Misconfigured
        If chain id, code or balance is not what it must be.
    """
    try:
        _check_account(client, chain_id, contract, account, deploy=deploy, pool=pool)
    except Unavailable as error:
        log.warning("settlement: %s; rounds wait in the outbox", error.cause)


def _check_account(client: Client, chain_id: int, contract: str, account: str, *, deploy: bool, pool: int) -> None:
    check_chain_id(client, chain_id)
    if not deploy:
        check_code(client, contract)
    balance = client.balance(account)
    if balance <= pool:
        raise Misconfigured(
            f"account {account} holds {balance} wei, the session's rewards take {pool} and its transactions gas",
            "send it funds, or lower blockchain.budget_wei",
        )


def coordinator_of(outbox: Outbox, record: SessionRecord) -> str:
    """Address that may commit: the last one that the session was handed over to, else the one that opened it."""
    accepted = [entry.sender for entry in outbox.history() if entry.intent.purpose == "accept" and entry.included_hash]
    return accepted[-1] if accepted else record.coordinator


def _check_same(record: SessionRecord, coordinator: str, blockchain: Blockchain, signer: Signer) -> None:
    for what, wanted, given in (
        ("chain", record.chain_id, blockchain.chain_id),
        ("contract", record.contract.lower(), (blockchain.contract or record.contract).lower()),
        ("coordinator", coordinator, signer.address),
    ):
        if wanted != given:
            raise Misconfigured(
                f"the run was started with {what} {wanted}, the configuration has {given}",
                "resume with the key and the configuration of the run, or start a new one",
            )


def _leftovers(run_dir: Path, sender: str, chain_id: int) -> list[Outbox]:
    """Outboxes of other runs with unsent transactions of the same key and chain, oldest first."""
    found = []
    for path in sorted(run_dir.parent.glob(f"*/{DATABASE}"), key=lambda path: path.stat().st_mtime):
        if path.parent.is_symlink() or path.parent.resolve() == run_dir.resolve():
            continue
        engine = database.connect(path)
        if inspect(engine).has_table("outbox"):
            outbox = Outbox(engine, sender, chain_id)
            if outbox.entries(unfinished=True):
                log.info("settlement: run %s left transactions unsent; they go first", path.parent.name)
                found.append(outbox)
                continue
        engine.dispose()
    return found


def _max_fee(blockchain: Blockchain) -> int:
    return int(blockchain.max_fee_gwei * 10**9)


def _stored(
    engine: Engine,
    chain_id: int,
    contract: str,
    coordinator: str,
    salt: bytes,
    blockchain: Blockchain,
    simulated_keys: bool,
    outbox: Outbox | None = None,
    rounds: int = 0,
    *,
    deploy: bool = False,
) -> SessionRecord:
    """Write the session's row, and what opens it on chain, in one transaction."""
    record = SessionRecord(
        id=session_id(chain_id, contract, coordinator, salt),
        salt=salt,
        chain_id=chain_id,
        contract=contract,
        coordinator=coordinator,
        budget=blockchain.budget_wei,
        base_pay=round(SHARES * blockchain.base_pay),
        simulated_keys=simulated_keys,
    )
    fields: dict[str, Any] = {name: getattr(record, name) for name in SessionRecord.model_fields}
    with engine.begin() as connection:
        open_session(connection, fields | {"simulated_keys": int(simulated_keys)})
        if outbox is not None:
            if deploy:
                outbox.put(connection, Intent("deploy", contract, record.id, abi.bytecode()))
            opening = abi.encode_call("open", salt)
            outbox.put(connection, Intent("open", contract, record.id, opening, value=record.budget * rounds))
    return record
