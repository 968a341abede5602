"""The durable outbox: what must reach the chain, and how far it has come.

```
PREPARED -> SIGNED -> SENT -> INCLUDED -> FINALIZED
```

An entry is written in the transaction that seals its round. It is SIGNED once raw bytes and nonce are stored, and
only then broadcast, so a process that dies at any point sends the same bytes again. Every attempt is kept: when
fees were raised, any of them may be the one that is included. All entries of an outbox belong to one key and go out
in their order.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    insert,
    select,
    update,
)

Purpose = Literal["deploy", "open", "fund", "commit"]


class State(StrEnum):
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
    Column("nonce", BigInteger),
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
    """What must happen on chain, in terms that let the chain be asked whether it has.

    Parameters
    ----------
    purpose : Purpose
        ``deploy`` creates `contract`; ``open`` makes the session exist; ``fund`` lifts its pool to `pool`;
        ``commit`` moves its head from `before` to `after`.
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
        Heads around a commit.
    pool : int
        Pool that a ``fund`` must lead to, in wei.
    nonce : int | None
        Fixed beforehand for a ``deploy``, since it decides the contract's address.
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
    nonce: int | None = None


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
class Entry:
    """An intent with its state; `attempts` in the order of signing."""

    id: int
    intent: Intent
    state: State
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
    """Reads and writes of one key's entries on one chain, on connections that the caller owns."""

    def __init__(self, sender: str, chain_id: int) -> None:
        self.sender = sender
        self.chain_id = chain_id

    def put(self, connection: Connection, intent: Intent) -> None:
        """Append an intent, PREPARED."""
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
                state=State.PREPARED,
                nonce=intent.nonce,
            )
        )

    def entries(self, connection: Connection, *, unfinished: bool = False) -> list[Entry]:
        """All entries, or those that are not FINALIZED, in their order."""
        mine = (_entries.c.sender == self.sender) & (_entries.c.chain_id == self.chain_id)
        if unfinished:
            mine &= _entries.c.state != State.FINALIZED
        rows = connection.execute(select(_entries).where(mine).order_by(_entries.c.id)).all()
        attempts: dict[int, list[Attempt]] = {row.id: [] for row in rows}
        for a in connection.execute(select(_attempts).join(_entries).where(mine).order_by(_attempts.c.id)):
            attempts[a.entry].append(Attempt(a.nonce, a.raw, a.hash, a.gas_limit, a.max_fee, a.priority_fee))
        return [_entry(row, tuple(attempts[row.id])) for row in rows]

    def highest_nonce(self, connection: Connection) -> int:
        """Highest nonce ever signed here; -1 if none."""
        query = (
            select(_attempts.c.nonce)
            .join(_entries)
            .where(_entries.c.sender == self.sender, _entries.c.chain_id == self.chain_id)
            .order_by(_attempts.c.nonce.desc())
            .limit(1)
        )
        found = connection.execute(query).scalar()
        return -1 if found is None else int(found)

    def head_after(self, connection: Connection, session: bytes, number: int) -> bytes | None:
        """Head that the session must have after round `number`; None if that round is not here."""
        found: bytes | None = connection.execute(
            select(_entries.c.after).where(
                _entries.c.session == session, _entries.c.purpose == "commit", _entries.c.round == number
            )
        ).scalar()
        return found

    def signed(self, connection: Connection, entry: Entry, attempt: Attempt) -> None:
        """Store raw bytes and nonce; must be durable before they are broadcast."""
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
        self._set(connection, entry, state=State.SIGNED, nonce=attempt.nonce)

    def sent(self, connection: Connection, entry: Entry) -> None:
        """Note that an endpoint took the latest attempt, or that an inclusion was undone."""
        self._set(connection, entry, state=State.SENT, block=None, gas_used=None, included_hash=None)

    def included(
        self, connection: Connection, entry: Entry, *, block: int | None, gas_used: int | None, tx_hash: bytes | None
    ) -> None:
        """Note an inclusion; all None when the contract's state shows it but no endpoint has the receipt."""
        self._set(connection, entry, state=State.INCLUDED, block=block, gas_used=gas_used, included_hash=tx_hash)

    def finalized(self, connection: Connection, entry: Entry) -> None:
        """Note that the inclusion cannot be undone."""
        self._set(connection, entry, state=State.FINALIZED)

    def prepared_again(self, connection: Connection, entry: Entry) -> None:
        """Start over with a new nonce, after the last one was used up without effect."""
        self._set(connection, entry, state=State.PREPARED, nonce=None)

    def _set(self, connection: Connection, entry: Entry, **values: Any) -> None:
        connection.execute(update(_entries).where(_entries.c.id == entry.id).values(**values))


def _entry(row: Any, attempts: tuple[Attempt, ...]) -> Entry:
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
        row.nonce,
    )
    return Entry(row.id, intent, State(row.state), row.block, row.gas_used, row.included_hash, attempts)
