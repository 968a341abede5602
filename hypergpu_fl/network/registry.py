"""The nodes of a run, in its database: who they are, what they run on, how their links did, and whether to trust them.

A node is known by the name of its share of the data, which outlives Flower's node ids and restarts of either side.
Seconds are those of the server's wall clock, since the epoch.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

from flwr.app import Message, RecordDict
from sqlalchemy import JSON, Column, Connection, Engine, Float, Index, Integer, MetaData, String, Table, delete, select
from sqlalchemy import insert as insert_

from strategies import wire
from strategies.aggregation import Update
from strategies.errors import Reason
from strategies.flight import Flight
from strategies.layout import Vector
from strategies.network_aware import NetworkAware
from strategies.round import RoundHook, RoundOutcome

RECENT: Final = 5  # samples of a link whose median is its figure: one odd probe must not move it
QUARANTINE_AFTER: Final = 3  # failures in a row
QUARANTINE_S: Final = 120.0  # the first time; twice as long each further time
LONGEST_QUARANTINE_S: Final = 3600.0
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

link_samples = Table(
    "link_samples",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("node", String(64), nullable=False),
    Column("round", Integer, nullable=False),
    Column("at_s", Float, nullable=False),
    Column("rtt_s", Float),
    Column("jitter_s", Float),
    Column("loss_rate", Float),
    Column("uplink_bps", Float),
    Column("downlink_bps", Float),
    Index("link_samples_of_node", "node", "id"),
)

FIGURES: Final = ("rtt_s", "jitter_s", "loss_rate", "uplink_bps", "downlink_bps")


class Status(StrEnum):
    """Where a node stands."""

    JOINING = "joining"  # it said who it is, and has not delivered yet
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
    status: str = Status.JOINING
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
        """Replies that counted, over work that ended one way or the other; None before any did."""
        return self.successes / self.tries if self.tries else None


def succeeded(record: NodeRecord, *, now_s: float) -> NodeRecord:
    """A reply of this node counted: whatever was wrong is over."""
    return replace(
        record,
        last_seen_s=now_s,
        tries=record.tries + 1,
        successes=record.successes + 1,
        failures_in_a_row=0,
        quarantines=0,
        excluded_until_s=None,
    )


def failed(record: NodeRecord, reason: str, *, now_s: float) -> NodeRecord:
    """Work of this node failed. After ``QUARANTINE_AFTER`` failures in a row it is left alone for a while.

    The n-th quarantine in a row lasts ``120 s * 2^(n-1)``, at most an hour. A node that was let out on probation goes
    back at its first failure.
    """
    failures = record.failures_in_a_row + 1
    record = replace(
        record, tries=record.tries + 1, failures_in_a_row=failures, last_failure=" ".join(reason.split())[:LARGEST_TEXT]
    )
    if failures < QUARANTINE_AFTER or record.excluded_until_s is not None:
        return record
    length_s = min(LONGEST_QUARANTINE_S, QUARANTINE_S * 2.0**record.quarantines)
    return replace(record, quarantines=record.quarantines + 1, excluded_until_s=now_s + length_s)


def status_of(record: NodeRecord, *, online: bool, at_work: bool) -> Status:
    """Status from what is recorded and whether Flower sees the node and it has work."""
    if record.excluded_until_s is not None:
        return Status.EXCLUDED
    if not online:
        return Status.OFFLINE
    if record.failures_in_a_row:
        return Status.SUSPECT
    if at_work:
        return Status.TRAINING
    return Status.ONLINE if record.successes else Status.JOINING


class Registry(RoundHook):
    """Keeps the nodes' table, and tells the strategy whom to leave alone.

    Parameters
    ----------
    engine : Engine
        The run's database.
    strategy : NetworkAware
        Its fleet is what is recorded; the ``excluded`` and ``on_probation`` of its roster are what is decided.
    clock : callable
        Seconds since the epoch.
    """

    def __init__(self, engine: Engine, strategy: NetworkAware, *, clock: Callable[[], float]) -> None:
        self._engine, self._strategy, self._clock = engine, strategy, clock
        metadata.create_all(engine)
        with engine.connect() as connection:
            self._records = {record.name: record for record in read_nodes(connection)}
            self._recent = {name: _recent(connection, name) for name in self._records}
        self._samples: list[dict[str, Any]] = []

    def enrolled(self, row: int, node_id: int, answer: RecordDict) -> None:
        """Note what the node says of itself, and its first probe."""
        name = self._strategy.fleet.names[row]
        said = {key: _short(value) for key, value in (answer.config_records.get(wire.DEVICE) or {}).items()}
        self._records[name] = replace(
            self._record(name, node_id),
            flower_id=str(node_id),
            address=str(said.pop(wire.ADDRESS, ""))[:42],
            device=said,
            last_seen_s=self._clock(),
        )
        self._note(row, answer, round=0)

    def admit(self, flight: Flight, reply: Message, blob: bytes) -> None:
        """Note what the reply shows of its node's link. Refuses nothing."""
        row = self._strategy.roster.rows[flight.node_id]
        self._note(row, reply.content, round=int(flight.plan[wire.ROUND]))
        name = self._strategy.fleet.names[row]
        codec = str(flight.plan.get(wire.CODEC, ""))[:64]
        self._records[name] = replace(self._record(name, flight.node_id), codec=codec, bytes_up=len(blob))

    def accepted(self, flight: Flight, reply: Message, update: Update, model_P: Vector) -> None:
        """Count the success."""
        name = self._strategy.fleet.names[self._strategy.roster.rows[flight.node_id]]
        self._records[name] = succeeded(self._record(name, flight.node_id), now_s=self._clock())

    def closed(self, outcome: RoundOutcome) -> None:
        """Count failures, let nodes in and out of quarantine, and write everything in one transaction."""
        now_s, strategy = self._clock(), self._strategy
        for refused in outcome.refused:
            if refused.reason is Reason.LEFT:
                continue
            record = self._record(refused.node, self._flower_id(refused.row))
            self._records[refused.node] = failed(record, f"{refused.reason}: {refused.detail}", now_s=now_s)
        for node_id, row in strategy.roster.rows.items():
            name = strategy.fleet.names[row]
            record = self._let_out(self._record(name, node_id), node_id, now_s)
            if node_id == self._flower_id(row):
                self._records[name] = self._refreshed(record, row, now_s)
        with self._engine.begin() as connection:
            self._write(connection)

    def _let_out(self, record: NodeRecord, node_id: int, now_s: float) -> NodeRecord:
        """Shut out a node in quarantine; when that is over it must answer a probe before it gets work again."""
        if record.excluded_until_s is None:
            return record
        if now_s < record.excluded_until_s:
            self._strategy.roster.excluded.add(node_id)
            return record
        self._strategy.roster.excluded.discard(node_id)
        self._strategy.roster.on_probation.add(node_id)  # a query, and with it a probe of the link
        return replace(record, excluded_until_s=None, failures_in_a_row=QUARANTINE_AFTER - 1)

    def _refreshed(self, record: NodeRecord, row: int, now_s: float) -> NodeRecord:
        fleet, recent = self._strategy.fleet, self._recent.get(record.name, [])
        online = bool(fleet.online[row])
        figures: dict[str, Any] = {name: _median([sample[name] for sample in recent]) for name in FIGURES}
        return replace(
            record,
            heartbeat_s=now_s if online else record.heartbeat_s,
            status=status_of(record, online=online, at_work=bool(fleet.at_work[row])),
            quality=float(fleet.quality[row]),
            **figures,
        )

    def _note(self, row: int, content: RecordDict, *, round: int) -> None:
        probed, timing = wire.numbers(content, wire.LINK), wire.numbers(content, wire.TIMING)
        upload_s = timing.get(wire.UPLOAD_S, 0.0)
        found = {
            "rtt_s": probed.get(wire.RTT_S),
            "jitter_s": probed.get(wire.JITTER_S),
            "loss_rate": probed.get(wire.LOSS_RATE),
            "uplink_bps": 8 * timing[wire.BYTES_UP] / upload_s if upload_s > 0 else probed.get(wire.UPLINK_BPS),
            "downlink_bps": probed.get(wire.DOWNLINK_BPS),
        }
        if any(value is not None for value in found.values()):
            name = self._strategy.fleet.names[row]
            sample = {"node": name, "round": round, "at_s": self._clock(), **found}
            self._samples.append(sample)
            self._recent[name] = [*self._recent.get(name, []), sample][-RECENT * 2 :]

    def _record(self, name: str, node_id: int) -> NodeRecord:
        return self._records.get(name) or NodeRecord(name, str(node_id), self._clock())

    def _flower_id(self, row: int) -> int:
        return self._strategy.roster.node_ids.get(row, 0)

    def _write(self, connection: Connection) -> None:
        rows = [{**asdict(record), "device": dict(record.device)} for record in self._records.values()]
        if rows:
            connection.execute(delete(nodes))
            connection.execute(insert_(nodes), rows)
        if self._samples:
            connection.execute(insert_(link_samples), self._samples)
            self._samples = []


def read_nodes(connection: Connection) -> list[NodeRecord]:
    """All nodes of a run, by name; none before its first round."""
    return [NodeRecord(**row) for row in connection.execute(select(nodes).order_by(nodes.c.name)).mappings()]


def link_history(connection: Connection, name: str, *, last: int = 100) -> list[dict[str, Any]]:
    """The last samples of a node's link, oldest first."""
    query = select(link_samples).where(link_samples.c.node == name).order_by(link_samples.c.id.desc()).limit(last)
    return [dict(row) for row in connection.execute(query).mappings()][::-1]


def _recent(connection: Connection, name: str) -> list[dict[str, Any]]:
    return link_history(connection, name, last=RECENT * 2)


def _median(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None][-RECENT:]
    return statistics.median(known) if known else None


def _short(value: Any) -> Any:
    return value if isinstance(value, int | float | bool) else str(value)[:LARGEST_TEXT]
