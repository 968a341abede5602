"""One session: its books and its outbox while a run is at work."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Engine

from hypergpu_fl.chain import abi
from hypergpu_fl.chain.courier import Courier
from hypergpu_fl.chain.outbox import EntryState, Intent, OutboxEntry
from hypergpu_fl.chain.signer import Signer
from hypergpu_fl.config import Blockchain, Secrets
from hypergpu_fl.errors import LedgerError
from hypergpu_fl.files import exclusive
from hypergpu_fl.ledger import database
from hypergpu_fl.ledger.books import Books
from hypergpu_fl.ledger.bundle import BUNDLE, RoundRecord, SessionRecord, round_record, write_bundle
from hypergpu_fl.ledger.proof import GrantedRound, contribution_proof
from hypergpu_fl.ledger.sealing import RoundSeal, SealedRound, seal_round
from hypergpu_fl.ledger.statement import round_digest
from hypergpu_fl.runs import BOOKS_LOCK
from hypergpu_fl.settlement.books_seal import sign_books
from hypergpu_fl.settlement.evidence import commit_calldata
from hypergpu_fl.settlement.opening import Route, embedded_route, rpc_route, session_without_chain
from hypergpu_fl.settlement.reading import DATABASE, books_as_bundle

_RECEIPT_ROUNDS: Final = 8  # rounds kept in memory for receipts; others are read again when asked for


@dataclass(frozen=True, slots=True)
class RoundStatus:
    """How far a round's commit is: transaction hash, block, and outbox state."""

    tx: str | None
    block: int | None
    status: str


@dataclass(frozen=True, slots=True)
class SettlementStatus:
    """The `chain` part of a run's report, and each round's share of it.

    Gas is summed over commits only; opening the session is not part of a round's price. `problem` says what keeps
    commits from being sent, and is empty if nothing does.
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
        self, run_dir: Path, engine: Engine, record: SessionRecord, signer: Signer, *, kind: str, route: Route | None
    ) -> None:
        self.run_dir = run_dir
        self.record = record
        self._engine = engine
        self._signer = signer
        self._kind = kind
        self._held = ExitStack()  # releases the database, and the locks on folder and key
        self._outbox = route.outbox if route else None
        self._courier = Courier(route.make_sender) if route else None
        self._sealed: dict[int, tuple[bytes, RoundRecord, GrantedRound]] = {}  # head before, and the round
        self._books = Books(record.id)
        with engine.connect() as connection:
            self.last_round, self._head = self._books.last(connection)
            self._rewards = self._books.distribution(connection)
            self.last_model = self._books.last_model(connection)
        self._pool = max((max(entry.intent.value, entry.intent.pool) for entry in self._entries()), default=0)

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
        within_s: float = 0.0,
    ) -> Settlement:
        """Open the books in ``run_dir/run.db`` and start sending. An existing run continues where it stopped.

        Parameters
        ----------
        run_dir : Path
            Folder of the run.
        blockchain : Blockchain
            Where to settle; with ``enabled = false`` there are only the books.
        secrets : Secrets
            Coordinator's key or keystore password, for ``kind = "rpc"``.
        salt : bytes
            32 bytes that distinguish this run from the coordinator's others; derived from configuration and seed.
        rounds : int
            Planned rounds; the session is opened with their budget.
        simulated_keys : bool
            Whether the nodes' keys derive from a public seed.
        within_s : float
            How long another process may still take to close the books.

        Raises
        ------
        LedgerError
            If another process still has the run's books open then.
        ChainError
            If key, chain or contract is not what it must be. An RPC that does not answer is no error.
        """
        with ExitStack() as held:
            busy = LedgerError(
                f"the books in {run_dir} are open in another process",
                "wait until it ends, or name another run",
            )
            held.enter_context(exclusive(run_dir / BOOKS_LOCK, busy, within_s=within_s))
            engine = database.connect(run_dir / DATABASE)
            held.callback(engine.dispose)
            database.metadata.create_all(engine)
            route: Route | None = None
            if not blockchain.enabled:
                record, signer = session_without_chain(
                    run_dir, engine, blockchain, salt=salt, simulated_keys=simulated_keys
                )
            else:
                if blockchain.kind == "rpc":
                    route = rpc_route(
                        run_dir, engine, blockchain, secrets, salt=salt, rounds=rounds, simulated_keys=simulated_keys
                    )
                else:
                    route = embedded_route(
                        run_dir, engine, blockchain, salt=salt, rounds=rounds, simulated_keys=simulated_keys
                    )
                record, signer = route.record, route.signer
            if route is not None and route.lock is not None:
                held.callback(route.lock.close)
            kind = blockchain.kind if blockchain.enabled else "none"
            settlement = cls(run_dir, engine, record, signer, kind=kind, route=route)
            settlement._held = held.pop_all()
        if settlement._courier is not None:
            settlement._courier.start()
        return settlement

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
        sealed = seal_round(seal, before=self._head, rewards=self._rewards, pay=self.record.pay)
        with self._engine.begin() as connection:
            self._books.record(connection, sealed)
            if self._outbox is not None:
                if sealed.owed > self._pool:
                    self._outbox.put(connection, self._funding(sealed.owed))
                self._outbox.put(connection, self._commit(sealed))
        self.last_round, self._head, self._rewards = seal.round, sealed.head, sealed.rewards
        self.last_model = seal.model
        self._pool = max(self._pool, sealed.owed)
        if self._courier is not None:
            self._courier.wake()
        return sealed

    def _commit(self, sealed: SealedRound) -> Intent:
        round = sealed.seal.round
        data = commit_calldata(self.session, round, sealed.root, sealed.seal.model, sealed.rewards_root, sealed.owed)
        return Intent(
            "commit", self.record.contract, self.session, data, round=round, before=sealed.before, after=sealed.head
        )

    def _funding(self, pool: int) -> Intent:
        data = abi.encode_call("fundTo", self.session, pool)
        return Intent("fund", self.record.contract, self.session, data, value=pool - self._pool, pool=pool)

    def check_model(self, model: bytes, *, rolled_back: bool = False) -> None:
        """Refuse to continue from a model that the last round did not seal; with ``rolled_back``, that no round sealed.

        Raises
        ------
        LedgerError
            If `model` is the hash of another model: the checkpoint is from another run, or was changed.
        """
        with self._engine.connect() as connection:
            known = model == self.last_model or (rolled_back and self._books.knows(connection, model))
        if self.last_model is not None and not known:
            raise LedgerError(
                f"the checkpoint's model is 0x{model.hex()}, round {self.last_round} sealed 0x{self.last_model.hex()}",
                f"put the checkpoints of this run back into {self.run_dir}, or start a new run",
            )

    def drain(self, timeout_s: float) -> bool:
        """Wait until every commit is final, for `timeout_s` seconds at most; whether they are."""
        return self._courier is None or self._courier.drain(timeout_s)

    def close(self) -> None:
        """Stop sending, and release folder and key. Transactions that are not final stay in the outbox."""
        if self._courier is not None:
            self._courier.stop()
        self._held.close()

    @property
    def finalized_s(self) -> dict[int, float]:
        """Seconds from first broadcast to finality of each round that this process settled."""
        return self._courier.finalized_s if self._courier is not None else {}

    def status(self) -> SettlementStatus:
        """How far the chain has come with this session."""
        entries = [entry for entry in self._entries() if entry.intent.purpose == "commit"]
        included = [entry for entry in entries if entry.state in (EntryState.INCLUDED, EntryState.FINALIZED)]
        problem = self._courier.problem if self._courier is not None else None
        return SettlementStatus(
            kind=self._kind,
            chain_id=self.record.chain_id,
            contract=self.record.contract,
            commits=len(included),
            finalized=sum(entry.state is EntryState.FINALIZED for entry in entries),
            gas_used=sum(entry.gas_used or 0 for entry in included),
            gas_limit=sum(entry.settled_by.gas_limit for entry in included if entry.settled_by is not None),
            problem=problem.cause if problem is not None else "",
            rounds={entry.intent.round: _round_status(entry) for entry in entries},
        )

    def roots(self) -> dict[int, bytes]:
        """Root of every round in the books."""
        with self._engine.connect() as connection:
            return {sealed.seal.round: sealed.root for sealed in self._books.sealed_rounds(connection)}

    def gas_of(self, round: int) -> tuple[int, int]:
        """Gas used and gas limit of a round's commit; 0 before it is included."""
        for entry in self._entries():
            if entry.intent.purpose == "commit" and entry.intent.round == round and entry.settled_by is not None:
                return entry.gas_used or 0, entry.settled_by.gas_limit
        return 0, 0

    def final_round(self) -> int:
        """Last round whose commit is final, as are all before it; without a chain the last one sealed."""
        return self._outbox.final_round() if self._outbox is not None else self.last_round

    def receipts(
        self, node: str, *, after: int = 0, upto: int | None = None, limit: int | None = None
    ) -> list[dict[str, Any]]:
        """Receipts for what rounds ``after + 1 .. upto`` sealed of a node, oldest first, for at most `limit` rounds.

        With a receipt alone, the node can prove that the coordinator sealed its work, and claim what the round granted.
        `upto` None means `final_round`.
        """
        if self._signer.address != self.record.coordinator:
            return []  # after a hand-over: a receipt cannot show that its signer became the session's coordinator
        upto = self.final_round() if upto is None else upto
        with self._engine.connect() as connection:
            rounds = self._books.rounds_with(connection, node, after=after, upto=upto)[:limit]
        return [receipt for round in rounds for receipt in self._receipts_of(node, round)]

    def _receipts_of(self, node: str, round: int) -> list[dict[str, Any]]:
        if round not in self._sealed:
            while len(self._sealed) >= _RECEIPT_ROUNDS:
                del self._sealed[next(iter(self._sealed))]
            self._sealed[round] = self._read(round)
        before, record, granted = self._sealed[round]
        statement = self._signer.sign_digest(round_digest(self.session, round, record.head))
        return [
            contribution_proof(self.record, [record], before, entry, granted, statement=statement).model_dump(
                mode="json"
            )
            for entry in record.contributions
            if entry.node == node
        ]

    def _read(self, round: int) -> tuple[bytes, RoundRecord, GrantedRound]:
        """Head before a round, the round, and what it granted."""
        with self._engine.connect() as connection:
            found = [
                sealed for wanted in (round, round - 1) for sealed in self._books.sealed_rounds(connection, only=wanted)
            ]
        record, *earlier = (round_record(sealed, None) for sealed in found)
        previous = earlier[0] if earlier else None
        return found[0].before, record, GrantedRound.of(self.session, record, previous, found[-1].before)

    def export_bundle(self) -> Path:
        """Sign that the run has ended, and write ``ledger.json`` beside the database."""
        books = books_as_bundle(self._engine, self.record, self._outbox)
        seal = sign_books(books, self._signer, ended=True)
        with self._engine.begin() as connection:
            self._books.record_end(
                connection, rounds=seal.rounds, head=seal.head, document=seal.document, signature=seal.signature
            )
        path = self.run_dir / BUNDLE
        write_bundle(path, books.model_copy(update={"seal": seal}))
        return path

    def _entries(self) -> list[OutboxEntry]:
        return self._outbox.history() if self._outbox is not None else []


def _round_status(entry: OutboxEntry) -> RoundStatus:
    attempt = entry.settled_by
    return RoundStatus("0x" + attempt.hash.hex() if attempt else None, entry.block, entry.state.value)
