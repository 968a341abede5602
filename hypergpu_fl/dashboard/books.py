"""A run's database for viewers: nodes, pay, commits and metrics, read by plain SQL on a read-only connection.

The tables are those of ``ledger.database``, ``network.registry``, ``chain.outbox`` and ``server.round_tables``. These
modules are not imported, because they take seconds and hundreds of megabytes, which is too much for a viewer.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hypergpu_fl.dashboard.segments import LogGone

_NODES: Final = (
    *("name", "address", "device", "status", "heartbeat_s", "last_seen_s", "tries", "successes"),
    *("failures_in_a_row", "quarantines", "excluded_until_s", "last_failure", "rtt_s", "jitter_s", "loss_rate"),
    *("uplink_bps", "downlink_bps", "quality", "codec", "bytes_up"),
)


@dataclass
class Earned:
    """What a node earned: wei so far, and in how many rounds."""

    wei: int = 0
    rounds: int = 0


@dataclass
class Commit:
    """A round's seal and how far it has come on its chain."""

    root: str
    status: str = "unsealed"
    tx: str = ""
    block: int | None = None


@dataclass
class Session:
    """Where a run's rounds are committed; wei shared out a round."""

    id: str
    chain_id: int
    contract: str
    coordinator: str
    budget: int
    simulated_keys: bool


@dataclass
class BooksView:
    """A run's database, of which only what has changed is read again.

    Attributes
    ----------
    nodes : list of dict
        Rows of the registry, by name.
    pay : dict
        Address -> `Earned`.
    commits : dict
        Round -> `Commit`.
    refused : dict
        Round -> replies that did not count; nodes that left gave none.
    metrics : dict
        Round -> what the server measured of its model, by name.
    sealed : int, optional
        Rounds in the books; None as long as nothing could be read, as of a locked database.
    session : Session, optional
        None until one was opened.
    """

    path: Path
    nodes: list[dict[str, Any]] = field(default_factory=list)
    pay: dict[str, Earned] = field(default_factory=dict)
    commits: dict[int, Commit] = field(default_factory=dict)
    refused: dict[int, int] = field(default_factory=dict)
    metrics: dict[int, dict[str, float]] = field(default_factory=dict)
    sealed: int | None = None
    session: Session | None = None
    _connection: sqlite3.Connection | None = None
    _version: int = -1
    _inode: int = -1
    _paid_upto: int = 0
    _refused_upto: int = 0
    _measured_upto: int = 0
    _final_upto: int = 0

    def refresh(self) -> bool:
        """Read what changed; whether anything did. A database that is locked or missing is read at a later call.

        Raises
        ------
        LogGone
            If another database has taken its place.
        """
        try:
            inode = self.path.stat().st_ino
        except FileNotFoundError:
            self.sealed = 0
            return False
        if self._inode not in (-1, inode):
            raise LogGone
        self._inode = inode
        try:
            connection = self._connected()
            version = int(connection.execute("PRAGMA data_version").fetchone()[0])
            if version == self._version:
                return False
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            for table, read in (
                ("sessions", self._read_session),
                ("nodes", self._read_nodes),
                ("rewards", self._read_pay),
                ("rounds", self._read_commits),
                ("refusals", self._read_refusals),
                ("round_metrics", self._read_metrics),
            ):
                if table in tables and (table != "rounds" or "outbox" in tables):
                    read(connection)
            rounds = "(SELECT COUNT(*) FROM rounds)" if "rounds" in tables else "0"
            (self.sealed,) = connection.execute(f"SELECT {rounds}").fetchone()
        except sqlite3.OperationalError:
            return False
        self._version = version
        return True

    def rows_of(self, node: str, *, first: int, last: int) -> list[dict[str, Any]]:
        """What a node did in rounds ``first .. last``: a row for each order or late reply."""
        with self._reading() as connection:
            if connection is None:
                return []
            query = "SELECT row FROM node_rounds WHERE round BETWEEN ? AND ? AND json_extract(row, '$.node') = ?"
            found = connection.execute(f"{query} ORDER BY id", (first, last, node))
            return [json.loads(row) for (row,) in found]

    def pay_upto(self, round: int) -> dict[str, Earned]:
        """What every node had earned after a round, by address."""
        pay: dict[str, Earned] = {}
        with self._reading() as connection:
            if connection is not None:
                query = "SELECT account, reward FROM rewards WHERE round <= ?"
                for account, wei in connection.execute(query, (round,)):
                    earned = pay.setdefault(account, Earned())
                    earned.wei, earned.rounds = earned.wei + int(wei), earned.rounds + 1
        return pay

    def close(self) -> None:
        """Release the file."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        """Yields the connection, or None without a database; a table that does not exist yet has no rows."""
        try:
            yield self._connected() if self.path.exists() else None
        except sqlite3.OperationalError:
            return

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            uri = self.path.resolve().as_uri() + "?mode=ro"
            self._connection = sqlite3.connect(uri, uri=True, timeout=1.0, check_same_thread=False)
        return self._connection

    def _read_session(self, connection: sqlite3.Connection) -> None:
        query = "SELECT id, chain_id, contract, coordinator, budget, simulated_keys FROM sessions"
        for id_, chain_id, contract, coordinator, budget, simulated in connection.execute(query):
            self.session = Session("0x" + id_.hex(), chain_id, contract, coordinator, int(budget), bool(simulated))

    def _read_nodes(self, connection: sqlite3.Connection) -> None:
        rows = connection.execute(f"SELECT {', '.join(_NODES)} FROM nodes")
        self.nodes = [dict(zip(_NODES, row, strict=True)) for row in rows]
        for node in self.nodes:
            node["device"] = json.loads(node["device"])

    def _read_pay(self, connection: sqlite3.Connection) -> None:
        query = "SELECT round, account, reward FROM rewards WHERE round > ? ORDER BY round"
        for round, account, wei in connection.execute(query, (self._paid_upto,)):
            earned = self.pay.setdefault(account, Earned())
            earned.wei, earned.rounds = earned.wei + int(wei), earned.rounds + 1
            self._paid_upto = round

    def _read_commits(self, connection: sqlite3.Connection) -> None:
        query = (
            "SELECT rounds.round, rounds.root, outbox.state, outbox.block, "
            "COALESCE(outbox.included_hash, (SELECT hash FROM outbox_attempts WHERE entry = outbox.id "
            "ORDER BY id DESC LIMIT 1)) FROM rounds LEFT JOIN outbox "
            "ON outbox.round = rounds.round AND outbox.session = rounds.session AND outbox.purpose = 'commit' "
            "WHERE rounds.round > ? ORDER BY rounds.round"
        )
        for round, root, state, block, hash_ in connection.execute(query, (self._final_upto,)):
            tx = "0x" + hash_.hex() if hash_ else ""
            self.commits[round] = Commit("0x" + root.hex(), state or "sealed", tx, block)
            if state == "FINALIZED" and self._final_upto == round - 1:
                self._final_upto = round

    def _read_refusals(self, connection: sqlite3.Connection) -> None:
        query = "SELECT id, round, reason != 'left' FROM refusals WHERE id > ? ORDER BY id"
        for id_, round, refused in connection.execute(query, (self._refused_upto,)):
            self.refused[round] = self.refused.get(round, 0) + refused
            self._refused_upto = id_

    def _read_metrics(self, connection: sqlite3.Connection) -> None:
        query = "SELECT round, metrics FROM round_metrics WHERE round > ? ORDER BY round"
        for round, metrics in connection.execute(query, (self._measured_upto,)):
            self.metrics[round] = json.loads(metrics)
            self._measured_upto = round
