"""The nodes of a run in its database: who they are, their hardware, their links, and how reliable they were.

A node is identified by the name of its share of the data, which outlives Flower's node ids and restarts of either side.
Seconds are those of the server's wall clock, since the epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import JSON, Column, Connection, Engine, Float, Integer, MetaData, String, Table, delete, select
from sqlalchemy import insert as insert_

from strategies.engine import Engine as Strategy
from strategies.errors import Reason
from strategies.outcome import RoundOutcome
from strategies.wire import ADDRESS, Hello

LARGEST_TEXT: Final = 256  # of what a node says about itself

metadata = MetaData()

nodes = Table(
    "nodes",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("flower_id", String(20), nullable=False),  # 64 unsigned bits, which SQLite's integers do not hold
    Column("address", String(42), nullable=False),
    Column("device", JSON, nullable=False),
    Column("status", String(16), nullable=False),
    Column("joined_s", Float, nullable=False),
    Column("heartbeat_s", Float),  # last seen connected
    Column("last_seen_s", Float),  # last reply
    Column("tries", Integer, nullable=False),
    Column("successes", Integer, nullable=False),
    Column("failures_in_a_row", Integer, nullable=False),
    Column("quarantines", Integer, nullable=False),
    Column("excluded_until_s", Float),
    Column("last_failure", String(LARGEST_TEXT), nullable=False),
    Column("rtt_s", Float),
    Column("jitter_s", Float),
    Column("loss_rate", Float),
    Column("uplink_bps", Float),
    Column("downlink_bps", Float),
    Column("quality", Float),
    Column("codec", String(64), nullable=False),  # of its last update, and its size
    Column("bytes_up", Integer),
)


class NodeStatus(StrEnum):
    """Where a node stands."""

    JOINING = "joining"  # it said who it is, but has delivered nothing yet
    ONLINE = "online"
    TRAINING = "training"
    SUSPECT = "suspect"  # connected, but its last work failed
    OFFLINE = "offline"
    EXCLUDED = "excluded"  # in quarantine


@dataclass(frozen=True)
class NodeRecord:
    """One row of ``nodes``; see the table for units."""

    name: str
    flower_id: str
    joined_s: float
    address: str = ""
    device: Mapping[str, Any] = field(default_factory=dict)
    status: str = NodeStatus.JOINING
    heartbeat_s: float | None = None
    last_seen_s: float | None = None
    tries: int = 0
    successes: int = 0
    failures_in_a_row: int = 0
    quarantines: int = 0
    excluded_until_s: float | None = None
    last_failure: str = ""
    rtt_s: float | None = None
    jitter_s: float | None = None
    loss_rate: float | None = None
    uplink_bps: float | None = None
    downlink_bps: float | None = None
    quality: float | None = None
    codec: str = ""
    bytes_up: int | None = None

    @property
    def success_rate(self) -> float | None:
        """Replies that counted, over all work that ended; None before any did."""
        return self.successes / self.tries if self.tries else None


def status_of(record: NodeRecord, *, online: bool, at_work: bool) -> NodeStatus:
    """Status from what is recorded and whether Flower sees the node and it has work."""
    if record.excluded_until_s is not None:
        return NodeStatus.EXCLUDED
    if not online:
        return NodeStatus.OFFLINE
    if record.failures_in_a_row:
        return NodeStatus.SUSPECT
    if at_work:
        return NodeStatus.TRAINING
    return NodeStatus.ONLINE if record.successes else NodeStatus.JOINING


class Registry:
    """Keeps the nodes' table.

    Parameters
    ----------
    books : Engine
        The run's database.
    strategy : strategies.engine.Engine
        Its fleet is recorded.
    clock : callable
        Seconds since the epoch.
    """

    def __init__(self, books: Engine, strategy: Strategy, *, clock: Callable[[], float]) -> None:
        self._books, self._strategy, self._clock = books, strategy, clock
        metadata.create_all(books)
        with books.connect() as connection:
            self._records = {record.name: record for record in read_nodes(connection)}

    def joined(self, row: int, node_id: int, hello: Hello) -> None:
        """Record what a node says about itself."""
        name = self._strategy.state.fleet.names[row]
        said = {key: _short(value) for key, value in hello.device.items()}
        self._records[name] = replace(
            self._record(name, node_id),
            flower_id=str(node_id),
            address=str(said.pop(ADDRESS, ""))[:42],
            device=said,
            last_seen_s=self._clock(),
        )

    def closed(self, outcome: RoundOutcome) -> None:
        """Count the round's results, and write everything in one transaction."""
        now_s, roster, fleet = self._clock(), self._strategy.roster, self._strategy.state.fleet
        names = fleet.names
        for update in outcome.accepted:
            record = self._record(update.node, update.node_id)
            self._records[update.node] = replace(
                record,
                codec=update.journey.codec,
                bytes_up=update.bytes_up,
                last_seen_s=now_s,
                tries=record.tries + 1,
                successes=record.successes + 1,
            )
        for refused in outcome.refused:
            if refused.reason is Reason.LEFT:
                continue
            record = self._record(refused.node, self._flower_id(refused.row))
            said = " ".join(f"{refused.reason}: {refused.detail}".split())[:LARGEST_TEXT]
            self._records[refused.node] = replace(record, tries=record.tries + 1, last_failure=said)
        for node_id, row in roster.rows.items():
            if node_id == self._flower_id(row) or row not in roster.node_ids:
                record = self._record(names[row], node_id)
                self._records[names[row]] = self._refreshed(record, row, now_s, outcome.ended_s)
        self._write()

    def ended(self) -> None:
        """The run is over, so nobody is at work any more."""
        for name, record in self._records.items():
            if record.status == NodeStatus.TRAINING:
                self._records[name] = replace(record, status=status_of(record, online=True, at_work=False))
        self._write()

    def _write(self) -> None:
        rows = [{**asdict(record), "device": dict(record.device)} for record in self._records.values()]
        with self._books.begin() as connection:
            connection.execute(delete(nodes))
            if rows:
                connection.execute(insert_(nodes), rows)

    def _refreshed(self, record: NodeRecord, row: int, now_s: float, ended_s: float) -> NodeRecord:
        """The record with the node's health, and with the estimate of its link where the link was measured."""
        fleet = self._strategy.state.fleet
        online, link = bool(fleet.online[row]), fleet.links[row]
        left_s = float(fleet.excluded_until_s[row]) - ended_s
        record = replace(
            record,
            failures_in_a_row=int(fleet.failures[row]),
            quarantines=int(fleet.exclusions[row]),
            excluded_until_s=now_s + left_s if fleet.excluded[row] else None,
        )
        return replace(
            record,
            heartbeat_s=now_s if online else record.heartbeat_s,
            status=status_of(record, online=online, at_work=bool(fleet.at_work[row])),
            quality=float(fleet.quality[row]),
            rtt_s=link.rtt_s if link.samples else None,
            jitter_s=link.jitter_s if link.samples else None,
            loss_rate=link.loss if link.samples else None,
            uplink_bps=link.uplink.bps if link.uplink.samples else None,
            downlink_bps=link.downlink.bps if link.downlink.samples else None,
        )

    def _record(self, name: str, node_id: int) -> NodeRecord:
        return self._records.get(name) or NodeRecord(name, str(node_id), self._clock())

    def _flower_id(self, row: int) -> int:
        return self._strategy.roster.node_ids.get(row, 0)


def read_nodes(connection: Connection) -> list[NodeRecord]:
    """All nodes of a run, by name; none before its first round."""
    return [NodeRecord(**row) for row in connection.execute(select(nodes).order_by(nodes.c.name)).mappings()]


def _short(value: Any) -> Any:
    return value if isinstance(value, int | float | bool) else str(value)[:LARGEST_TEXT]
