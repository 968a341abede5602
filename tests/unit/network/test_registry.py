"""The registry's rules, and its table over restarts of the server and the nodes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine

from hypergpu_fl.ledger.database import connect
from hypergpu_fl.network import registry
from hypergpu_fl.network.registry import (
    NodeRecord,
    NodeStatus,
    Registry,
    read_nodes,
    status_of,
)
from strategies import lineup
from strategies.engine import Engine as Strategy
from strategies.errors import Reason
from strategies.fleet.health import EXCLUDED_AFTER, EXCLUSION_S, failed
from strategies.fleet.link import LinkSample
from strategies.model.layout import Layout
from strategies.model.payload import RawPayload
from strategies.model.server_optimizer import ServerOptimizer
from strategies.outcome import Accepted, Journey, RefusedReply, RoundOutcome
from strategies.settings import Settings
from strategies.wire import ADDRESS, Hello

NODE = NodeRecord("node-0", "1", 0.0)


@pytest.mark.parametrize(
    ("record", "online", "at_work", "status"),
    [
        (NODE, True, False, NodeStatus.JOINING),
        (replace(NODE, successes=1), True, False, NodeStatus.ONLINE),
        (replace(NODE, successes=1), True, True, NodeStatus.TRAINING),
        (replace(NODE, successes=1, failures_in_a_row=1), True, True, NodeStatus.SUSPECT),
        (replace(NODE, successes=1, failures_in_a_row=1), False, True, NodeStatus.OFFLINE),
        (replace(NODE, excluded_until_s=9.0), True, False, NodeStatus.EXCLUDED),
    ],
)
def test_status_tells_the_most_serious_fact(
    record: NodeRecord, online: bool, at_work: bool, status: NodeStatus
) -> None:
    assert status_of(record, online=online, at_work=at_work) is status


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = connect(tmp_path / "run.db")
    yield engine
    engine.dispose()


def strategy_with(nodes: int) -> Strategy:
    layout = Layout.of({"w": np.zeros(2, dtype=np.float32)})
    strategy = lineup.strategy(
        "network_aware",
        layout=layout,
        payload=RawPayload(layout),
        optimizer=ServerOptimizer("fedavg", 1.0, 0.9),
        settings=Settings(cohort=nodes),
    )
    for row in range(nodes):
        strategy.state.fleet.enrol(f"node-{row}", examples=10, sample_s=0.01)
        strategy.roster.rows[100 + row], strategy.roster.node_ids[row] = row, 100 + row
    return strategy


def outcome(
    round: int, refused: list[RefusedReply] | None = None, accepted: list[Accepted] | None = None
) -> RoundOutcome:
    none = np.zeros(2, dtype=np.float32)
    return RoundOutcome(round, 0.0, 1.0, [0], accepted or [], refused or [], 0, 0, 0, b"", b"", none, {})


def test_leaving_is_no_failure_however_often(engine: Engine) -> None:
    book = Registry(engine, strategy_with(1), clock=lambda: 1.0)
    for round in range(1, 6):
        book.closed(outcome(round, [RefusedReply(0, "node-0", round, Reason.LEFT, "the node leaves")]))
    with engine.connect() as connection:
        (record,) = read_nodes(connection)
    assert (record.tries, record.failures_in_a_row, record.excluded_until_s) == (0, 0, None)


def accepted(row: int) -> Accepted:
    return Accepted(row, f"node-{row}", 100 + row, 1, 0, 0, 5, 10, 1000, 1.0, {}, Journey(codec="top32"))


def test_the_table_holds_identity_and_success_and_the_estimates_that_the_planner_uses(engine: Engine) -> None:
    strategy = strategy_with(2)
    book = Registry(engine, strategy, clock=lambda: 1000.0)
    book.joined(0, 100, Hello(0, 10, {ADDRESS: "0x" + "ab" * 20, "gpu": "H100" * 200}))
    for uplink_bps in (10e6, 11e6, 90e6):
        strategy.state.fleet.observe(0, LinkSample(rtt_s=0.2, uplink_bps=uplink_bps, downlink_bps=50e6), round=1)
    book.closed(outcome(1, [RefusedReply(1, "node-1", 1, Reason.ERROR_REPLY, "gone")], [accepted(0)]))
    with engine.connect() as connection:
        first, second = read_nodes(connection)
    assert (first.address, first.flower_id, first.status) == ("0x" + "ab" * 20, "100", NodeStatus.ONLINE)
    assert len(first.device["gpu"]) == registry.LARGEST_TEXT
    link = strategy.state.fleet.links[0]
    assert (first.rtt_s, first.jitter_s, first.loss_rate) == (link.rtt_s, link.jitter_s, link.loss)
    assert (first.uplink_bps, first.downlink_bps) == (link.uplink.bps, link.downlink.bps)
    assert first.quality == strategy.state.fleet.quality[0] and (first.codec, first.bytes_up) == ("top32", 1000)
    assert first.success_rate == 1.0 and second.success_rate == 0.0
    assert second.last_failure == "error reply: gone"
    assert second.rtt_s is second.uplink_bps is None  # nothing was seen of it


def test_of_a_run_that_is_over_nobody_is_shown_at_work(engine: Engine) -> None:
    strategy = strategy_with(2)
    strategy.state.fleet.orders[1] = 1
    book = Registry(engine, strategy, clock=lambda: 1000.0)
    book.closed(outcome(1, [], [accepted(0), accepted(1)]))
    shown = []
    for end in (lambda: None, book.ended):
        end()
        with engine.connect() as connection:
            shown.append([record.status for record in read_nodes(connection)])
    assert shown == [[NodeStatus.ONLINE, NodeStatus.TRAINING], [NodeStatus.ONLINE, NodeStatus.ONLINE]]


def test_what_a_node_says_of_its_failure_is_kept_short_and_on_one_line(engine: Engine) -> None:
    book = Registry(engine, strategy_with(1), clock=lambda: 0.0)
    book.closed(outcome(1, [RefusedReply(0, "node-0", 1, Reason.ERROR_REPLY, "a\n b" + "c" * 10_000)]))
    with engine.connect() as connection:
        (record,) = read_nodes(connection)
    assert record.last_failure.startswith("error reply: a bccc") and len(record.last_failure) == registry.LARGEST_TEXT


def test_a_node_in_quarantine_is_shown_with_the_time_that_is_left(engine: Engine) -> None:
    strategy = strategy_with(2)
    for _ in range(EXCLUDED_AFTER):
        failed(strategy.state.fleet, 0, at_s=1.0)
    Registry(engine, strategy, clock=lambda: 5000.0).closed(outcome(1))  # it ended at 1.0 on the run's clock
    with engine.connect() as connection:
        first, second = read_nodes(connection)
    assert first.status == NodeStatus.EXCLUDED and first.excluded_until_s == 5000.0 + EXCLUSION_S
    assert (first.failures_in_a_row, first.quarantines) == (3, 1) and second.excluded_until_s is None


def test_a_server_that_restarts_remembers_its_nodes(engine: Engine) -> None:
    book = Registry(engine, strategy_with(1), clock=lambda: 5.0)
    book.closed(outcome(1, accepted=[accepted(0)]))
    strategy = strategy_with(1)
    strategy.roster.rows, strategy.roster.node_ids = {777: 0}, {0: 777}  # Flower gave the node another id
    again = Registry(engine, strategy, clock=lambda: 6.0)
    again.closed(outcome(2))
    with engine.connect() as connection:
        (record,) = read_nodes(connection)
    assert (record.joined_s, record.successes, record.codec) == (5.0, 1, "top32")
    assert record.heartbeat_s == 6.0 and record.last_seen_s == 5.0
