"""A sealed round goes from the books to the chain.

The strategy's hook calls `Settlement.seal` once a round: one database transaction writes the round, its
contributions and the outbox entry that commits it. A background thread does the rest; the hook never waits for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine

from hypergpu_fl.chain import abi
from hypergpu_fl.chain import outbox as chain_outbox
from hypergpu_fl.chain.client import Client
from hypergpu_fl.chain.embedded import CHAIN_ID, COORDINATOR_SECRET, EmbeddedChain
from hypergpu_fl.chain.evidence import decode_transaction
from hypergpu_fl.chain.lock import KeyLock
from hypergpu_fl.chain.outbox import Entry, Intent, Outbox, State
from hypergpu_fl.chain.sender import Sender
from hypergpu_fl.chain.signer import KeySigner, Signer, created_address
from hypergpu_fl.config import Blockchain, Secrets
from hypergpu_fl.errors import ChainError, LedgerError, VerificationError
from hypergpu_fl.ledger import database
from hypergpu_fl.ledger.bundle import Bundle, SessionRecord, TransactionRecord, round_record, session_id, write_bundle
from hypergpu_fl.ledger.sealing import RoundSeal, SealedRound, seal_round
from hypergpu_fl.ledger.verification import verify_bundle

log = logging.getLogger(__name__)

DATABASE = "run.db"
BUNDLE = "ledger.json"
_NOWHERE = "0x" + "0" * 40


@dataclass(frozen=True, slots=True)
class RoundStatus:
    """Where a round's commit is: transaction hash, block, and outbox state."""

    tx: str | None
    block: int | None
    status: str


@dataclass(frozen=True, slots=True)
class SettlementStatus:
    """The `chain` part of a run's report, and each round's share of it.

    Gas is summed over commits only; opening the session is not part of a round's price.
    """

    kind: str
    chain_id: int
    contract: str
    commits: int
    finalized: int
    gas_used: int
    gas_limit: int
    problem: str = ""
    rounds: dict[int, RoundStatus] = field(default_factory=dict)


class Settlement:
    """Books and outbox of one session. Make one with `open`."""

    def __init__(
        self,
        run_dir: Path,
        engine: Engine,
        record: SessionRecord,
        *,
        kind: str,
        sender: Sender | None,
        outbox: Outbox | None,
        lock: KeyLock | None,
    ) -> None:
        self.run_dir = run_dir
        self.record = record
        self._engine = engine
        self._kind = kind
        self._sender = sender
        self._outbox = outbox
        self._lock = lock
        with engine.connect() as connection:
            self._books = database.Books(record.id)
            self.last_round, self._head = self._books.last(connection)
            self._rewards = self._books.distribution(connection)
            self._pool = _pool(outbox.entries(connection)) if outbox else 0

    @property
    def session(self) -> bytes:
        """Session id that nodes sign."""
        return self.record.id

    @classmethod
    def open(
        cls,
        run_dir: Path,
        blockchain: Blockchain,
        secrets: Secrets,
        *,
        salt: bytes,
        rounds: int,
        simulated_keys: bool,
    ) -> Settlement:
        """Open the books in ``run_dir/run.db`` and start sending. An existing run goes on where it stopped.

        Parameters
        ----------
        run_dir : Path
            Folder of the run.
        blockchain : Blockchain
            Where to settle; with ``enabled = false`` only the books are kept.
        secrets : Secrets
            Coordinator's key or keystore password, for ``kind = "rpc"``.
        salt : bytes
            32 bytes that tell this run from the coordinator's others: derived from config and seed.
        rounds : int
            Planned rounds: the session is opened with the budget of so many.
        simulated_keys : bool
            Whether the nodes' keys derive from a public seed.

        Raises
        ------
        ChainError
            If key, chain or contract is not what it must be. An RPC that is merely down is no error.
        """
        engine = database.connect(run_dir / DATABASE)
        database.metadata.create_all(engine)
        chain_outbox.metadata.create_all(engine)
        if not blockchain.enabled:
            return cls._without_chain(run_dir, engine, blockchain, salt, simulated_keys)
        if blockchain.kind == "rpc":
            raise LedgerError("an RPC chain is not wired yet", "use blockchain.kind = embedded")
        signer = KeySigner(COORDINATOR_SECRET)
        contract = created_address(signer.address, 0)
        lock = KeyLock(run_dir, CHAIN_ID, signer.address)
        outbox = Outbox(signer.address, CHAIN_ID)
        record = SessionRecord(
            id=session_id(CHAIN_ID, contract, signer.address, salt),
            salt=salt,
            chain_id=CHAIN_ID,
            contract=contract,
            coordinator=signer.address,
            budget=blockchain.budget_wei,
            simulated_keys=simulated_keys,
        )
        with engine.begin() as connection:
            if _open_books(connection, record):
                outbox.put(connection, Intent("deploy", contract, record.id, abi.bytecode(), nonce=0))
                outbox.put(connection, _opening(record, rounds))
        sender = Sender(
            engine,
            outbox,
            _replayed(engine, outbox, signer),
            signer,
            max_fee=int(blockchain.max_fee_gwei * 10**9),
        )
        settlement = cls(run_dir, engine, record, kind="embedded", sender=sender, outbox=outbox, lock=lock)
        sender.start()
        return settlement

    @classmethod
    def _without_chain(
        cls, run_dir: Path, engine: Engine, blockchain: Blockchain, salt: bytes, simulated_keys: bool
    ) -> Settlement:
        record = SessionRecord(
            id=session_id(0, _NOWHERE, _NOWHERE, salt),
            salt=salt,
            chain_id=0,
            contract=_NOWHERE,
            coordinator=_NOWHERE,
            budget=blockchain.budget_wei,
            simulated_keys=simulated_keys,
        )
        with engine.begin() as connection:
            _open_books(connection, record)
        return cls(run_dir, engine, record, kind="none", sender=None, outbox=None, lock=None)

    def seal(self, seal: RoundSeal) -> SealedRound:
        """Seal the next round durably; returns before anything is sent.

        Raises
        ------
        LedgerError
            If it is not the round after `last_round`.
        """
        if seal.round != self.last_round + 1:
            raise LedgerError(
                f"round {seal.round} cannot be sealed after round {self.last_round}", "seal every round once, in order"
            )
        sealed = seal_round(seal, before=self._head, rewards=self._rewards, budget=self.record.budget)
        with self._engine.begin() as connection:
            self._books.record(connection, sealed)
            if self._outbox is not None:
                if sealed.owed > self._pool:
                    self._outbox.put(connection, self._funding(sealed.owed))
                self._outbox.put(connection, self._commit(sealed))
        self.last_round, self._head, self._rewards = seal.round, sealed.head, sealed.rewards
        self._pool = max(self._pool, sealed.owed)
        if self._sender is not None:
            self._sender.wake()
        return sealed

    def _commit(self, sealed: SealedRound) -> Intent:
        return Intent(
            "commit",
            self.record.contract,
            self.session,
            commit_calldata(
                self.session, sealed.seal.round, sealed.root, sealed.seal.model, sealed.rewards_root, sealed.owed
            ),
            round=sealed.seal.round,
            before=sealed.before,
            after=sealed.head,
        )

    def _funding(self, pool: int) -> Intent:
        data = abi.encode_call("fund", self.session)
        return Intent("fund", self.record.contract, self.session, data, value=pool - self._pool, pool=pool)

    def drain(self, timeout_s: float) -> bool:
        """Wait until every commit is final, at most so long; whether they are."""
        return self._sender is None or self._sender.drain(timeout_s)

    def close(self) -> None:
        """Stop sending and let go of the key. What is not final stays in the outbox."""
        if self._sender is not None:
            self._sender.stop()
        if self._lock is not None:
            self._lock.release()
        self._engine.dispose()

    def status(self) -> SettlementStatus:
        """How far the chain has come with this session."""
        entries = [entry for entry in self._entries() if entry.intent.purpose == "commit"]
        included = [entry for entry in entries if entry.state in (State.INCLUDED, State.FINALIZED)]
        problem = self._sender.problem if self._sender is not None else None
        return SettlementStatus(
            kind=self._kind,
            chain_id=self.record.chain_id,
            contract=self.record.contract,
            commits=len(included),
            finalized=sum(entry.state is State.FINALIZED for entry in entries),
            gas_used=sum(entry.gas_used or 0 for entry in included),
            gas_limit=sum(entry.settled_by.gas_limit for entry in included if entry.settled_by is not None),
            problem=problem.cause if problem is not None else "",
            rounds={entry.intent.round: _round_status(entry) for entry in entries},
        )

    def export_bundle(self) -> Path:
        """Write ``ledger.json`` beside the database."""
        path = self.run_dir / BUNDLE
        with self._engine.connect() as connection:
            rounds = self._books.sealed_rounds(connection)
        write_bundle(path, _bundle(self.record, rounds, self._entries()))
        return path

    def _entries(self) -> list[Entry]:
        if self._outbox is None:
            return []
        with self._engine.connect() as connection:
            return self._outbox.entries(connection)


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
    session = bundle.session
    for record in bundle.rounds:
        commit = record.commit
        if commit is None:
            continue
        expected = commit_calldata(
            session.id, record.round, record.root, record.model, record.rewards_root, record.owed
        )
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
                    f"round {record.round}: the commit transaction's {what} differs from the books",
                    "the file was altered; take it from its source again and compare with the chain",
                )
    return head


def _open_books(connection: Connection, record: SessionRecord) -> bool:
    """Write the session's row; whether it is new."""
    fields: dict[str, Any] = {**record.model_dump(mode="python"), "simulated_keys": int(record.simulated_keys)}
    fields |= {"id": record.id, "salt": record.salt, "budget": record.budget}
    return database.open_session(connection, fields)


def _opening(record: SessionRecord, rounds: int) -> Intent:
    data = abi.encode_call("open", record.salt)
    return Intent("open", record.contract, record.id, data, value=record.budget * rounds)


def _pool(entries: list[Entry]) -> int:
    """Pool that the session has, or will have once the outbox is through."""
    return max((max(entry.intent.value, entry.intent.pool) for entry in entries), default=0)


def _replayed(engine: Engine, outbox: Outbox, signer: Signer) -> Callable[[], Client]:
    """Make the opener of an embedded EVM that runs again what an earlier process had run on its own."""

    def opened() -> Client:
        chain = EmbeddedChain(signer.address)
        with engine.connect() as connection:
            for entry in outbox.entries(connection):
                if entry.state in (State.INCLUDED, State.FINALIZED) and entry.settled_by is not None:
                    chain.send_raw(entry.settled_by.raw)
        return chain

    return opened


def _round_status(entry: Entry) -> RoundStatus:
    attempt = entry.settled_by
    return RoundStatus("0x" + attempt.hash.hex() if attempt else None, entry.block, entry.state.value)


def _bundle(record: SessionRecord, rounds: list[SealedRound], entries: list[Entry]) -> Bundle:
    commits = {e.intent.round: _transaction(e) for e in entries if e.intent.purpose == "commit"}
    others = [_transaction(entry) for entry in entries if entry.intent.purpose != "commit"]
    return Bundle(
        session=record,
        transactions=[transaction for transaction in others if transaction is not None],
        rounds=[round_record(sealed, commits.get(sealed.seal.round)) for sealed in rounds],
    )


def _transaction(entry: Entry) -> TransactionRecord | None:
    attempt = entry.settled_by
    if attempt is None:
        return None
    return TransactionRecord(
        purpose=entry.intent.purpose,
        hash=attempt.hash,
        raw=attempt.raw,
        state=entry.state.value,
        block=entry.block,
        gas_used=entry.gas_used,
        gas_limit=attempt.gas_limit,
    )
