"""The durable outbox: what must reach the chain, and how far it has come.

```
PREPARED -> SIGNED -> SENT -> INCLUDED -> FINALIZED
```

An entry is written in the transaction that seals its round. It becomes SIGNED when raw bytes and nonce are stored, and
is broadcast only after that, so a process that dies at any point sends the same bytes again. Every attempt is kept: if
fees were raised, any of them may be the one that is included. All entries of an outbox belong to one key and are sent
in their order.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Engine,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    func,
    insert,
    select,
    update,
)

Purpose = Literal["deploy", "open", "fund", "commit", "propose", "accept"]


class EntryState(StrEnum):
    """How far an entry has come."""

    PREPARED = "PREPARED"
    SIGNED = "SIGNED"
    SENT = "SENT"
    INCLUDED = "INCLUDED"
    FINALIZED = "FINALIZED"


metadata = MetaData()

_entries = Table(
    "outbox",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("sender", String(42), nullable=False),
    Column("chain_id", BigInteger, nullable=False),
    Column("purpose", String(8), nullable=False),
    Column("contract", String(42), nullable=False),
    Column("session", LargeBinary(32), nullable=False),
    Column("round", Integer, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("value", String(78), nullable=False),
    Column("before", LargeBinary(32), nullable=False),
    Column("after", LargeBinary(32), nullable=False),
    Column("pool", String(78), nullable=False),
    Column("state", String(9), nullable=False, index=True),
    Column("block", BigInteger),
    Column("gas_used", BigInteger),
    Column("included_hash", LargeBinary(32)),
)

_attempts = Table(
    "outbox_attempts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("entry", Integer, ForeignKey("outbox.id"), nullable=False, index=True),
    Column("nonce", BigInteger, nullable=False),
    Column("raw", LargeBinary, nullable=False),
    Column("hash", LargeBinary(32), nullable=False),
    Column("gas_limit", BigInteger, nullable=False),
    Column("max_fee", BigInteger, nullable=False),
    Column("priority_fee", BigInteger, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Intent:
    """What must happen on chain, in terms by which the chain can be asked whether it has happened.

    Parameters
    ----------
    purpose : Purpose
        ``deploy`` creates `contract`, so it is signed with the nonce that gives this address; ``open`` makes the
        session exist; ``fund`` lifts its pool to `pool`; ``commit`` moves its head from `before` to `after`;
        ``propose`` offers it to the address in `after`, ``accept`` makes that the coordinator.
    contract : str
        EIP-55 address of the ledger contract.
    session : bytes
        Session id.
    data : bytes
        Calldata, or creation code.
    value : int
        Wei to send along.
    round : int
        Round of a commit; 0 for the rest.
    before, after : bytes
        Heads around a commit; the next coordinator's address, left-padded, of a hand-over.
    pool : int
        Pool that a ``fund`` must lead to, in wei.
    """

    purpose: Purpose
    contract: str
    session: bytes
    data: bytes
    value: int = 0
    round: int = 0
    before: bytes = b""
    after: bytes = b""
    pool: int = 0


@dataclass(frozen=True, slots=True)
class Attempt:
    """Signed bytes of an entry, with what was signed."""

    nonce: int
    raw: bytes
    hash: bytes
    gas_limit: int
    max_fee: int
    priority_fee: int


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """An intent with its state and the address that sends it; `attempts` in the order of signing."""

    id: int
    sender: str
    intent: Intent
    state: EntryState
    block: int | None
    gas_used: int | None
    included_hash: bytes | None
    attempts: tuple[Attempt, ...]

    @property
    def settled_by(self) -> Attempt | None:
        """The attempt that was included, else the latest; None before the first."""
        for attempt in self.attempts:
            if attempt.hash == self.included_hash:
                return attempt
        return self.attempts[-1] if self.attempts else None


class Outbox:
    """One key's entries on one chain, in one database.

    Parameters
    ----------
    engine : Engine
        The database; its tables are made if need be.
    sender : str
        EIP-55 address of the key.
    chain_id : int
        The chain.
    """

    def __init__(self, engine: Engine, sender: str, chain_id: int) -> None:
        self.sender = sender
        self.chain_id = chain_id
        self._engine = engine
        self._mine = (_entries.c.sender == sender) & (_entries.c.chain_id == chain_id)
        metadata.create_all(engine)

    def put(self, connection: Connection, intent: Intent) -> None:
        """Append an intent, PREPARED, within the caller's transaction."""
        connection.execute(
            insert(_entries).values(
                sender=self.sender,
                chain_id=self.chain_id,
                purpose=intent.purpose,
                contract=intent.contract,
                session=intent.session,
                round=intent.round,
                data=intent.data,
                value=str(intent.value),
                before=intent.before,
                after=intent.after,
                pool=str(intent.pool),
                state=EntryState.PREPARED,
            )
        )

    def entries(self, *, unfinished: bool = False) -> list[OutboxEntry]:
        """All entries, or those that are not FINALIZED, in their order."""
        return self._read(self._mine & (_entries.c.state != EntryState.FINALIZED) if unfinished else self._mine)

    def history(self) -> list[OutboxEntry]:
        """All entries of this chain in their order, those of a coordinator before a hand-over included."""
        return self._read(_entries.c.chain_id == self.chain_id)

    def _read(self, which: ColumnElement[bool]) -> list[OutboxEntry]:
        attempts: dict[int, list[Attempt]] = {}
        with self._engine.connect() as connection:
            rows = connection.execute(select(_entries).where(which).order_by(_entries.c.id)).all()
            for a in connection.execute(select(_attempts).join(_entries).where(which).order_by(_attempts.c.id)):
                attempt = Attempt(a.nonce, a.raw, a.hash, a.gas_limit, a.max_fee, a.priority_fee)
                attempts.setdefault(a.entry, []).append(attempt)
        return [_entry(row, tuple(attempts.get(row.id, ()))) for row in rows]

    def final_round(self) -> int:
        """Last round whose commit is FINALIZED; 0 if none. Entries go out in their order, so all before it are too."""
        query = select(func.max(_entries.c.round)).where(
            _entries.c.chain_id == self.chain_id, _entries.c.state == EntryState.FINALIZED
        )
        with self._engine.connect() as connection:
            return connection.execute(query).scalar() or 0

    def highest_nonce(self, *, included: bool = False) -> int:
        """Highest nonce that was included or is under way, with `included` only of the former; -1 if there is none.

        Nonces that an entry gave up do not count.
        """
        other = _attempts.alias()
        latest = select(func.max(other.c.id)).where(other.c.entry == _entries.c.id).scalar_subquery()
        under_way = _entries.c.state.in_((EntryState.SIGNED, EntryState.SENT)) & (_attempts.c.id == latest)
        held = _attempts.c.hash == _entries.c.included_hash
        query = select(func.max(_attempts.c.nonce)).join(_entries)
        with self._engine.connect() as connection:
            found = connection.execute(query.where(self._mine, held if included else held | under_way)).scalar()
        return -1 if found is None else int(found)

    def head_after(self, session: bytes, round: int) -> bytes | None:
        """Head that the session must have after `round`; None if that round is not here."""
        query = select(_entries.c.after).where(
            _entries.c.session == session, _entries.c.purpose == "commit", _entries.c.round == round
        )
        with self._engine.connect() as connection:
            found: bytes | None = connection.execute(query).scalar()
        return found

    def signed(self, entry: OutboxEntry, attempt: Attempt) -> None:
        """Store raw bytes and nonce; durable on return, so that they may be broadcast."""
        with self._engine.begin() as connection:
            connection.execute(
                insert(_attempts).values(
                    entry=entry.id,
                    nonce=attempt.nonce,
                    raw=attempt.raw,
                    hash=attempt.hash,
                    gas_limit=attempt.gas_limit,
                    max_fee=attempt.max_fee,
                    priority_fee=attempt.priority_fee,
                )
            )
            _set(connection, entry, state=EntryState.SIGNED)

    def sent(self, entry: OutboxEntry) -> None:
        """Note that an endpoint took the latest attempt, or that an inclusion was undone."""
        with self._engine.begin() as connection:
            _set(connection, entry, state=EntryState.SENT, block=None, gas_used=None, included_hash=None)

    def included(self, entry: OutboxEntry, *, block: int | None, gas_used: int | None, tx_hash: bytes | None) -> None:
        """Note an inclusion; all None if the contract's state shows it but no endpoint has the receipt."""
        with self._engine.begin() as connection:
            _set(connection, entry, state=EntryState.INCLUDED, block=block, gas_used=gas_used, included_hash=tx_hash)

    def finalized(self, entry: OutboxEntry) -> None:
        """Note that the inclusion cannot be undone."""
        with self._engine.begin() as connection:
            _set(connection, entry, state=EntryState.FINALIZED)

    def prepared_again(self, entry: OutboxEntry) -> None:
        """Start over with a new nonce, after the last one was used up without effect."""
        with self._engine.begin() as connection:
            _set(connection, entry, state=EntryState.PREPARED)


def _set(connection: Connection, entry: OutboxEntry, **values: Any) -> None:
    connection.execute(update(_entries).where(_entries.c.id == entry.id).values(**values))


def _entry(row: Any, attempts: tuple[Attempt, ...]) -> OutboxEntry:
    intent = Intent(
        row.purpose,
        row.contract,
        row.session,
        row.data,
        int(row.value),
        row.round,
        row.before,
        row.after,
        int(row.pool),
    )
    return OutboxEntry(
        row.id, row.sender, intent, EntryState(row.state), row.block, row.gas_used, row.included_hash, attempts
    )
