"""The probe against Flower's real HTTP API, behind a relay whose link is known."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator

import pytest
from flwr.app import RecordDict

from hypergpu_fl.errors import NetworkError
from hypergpu_fl.network import link_report
from hypergpu_fl.network.link_report import direction_of, report_link, target_of
from hypergpu_fl.network.probe import Budget, LinkFindings, ProbeTarget, probe
from hypergpu_fl.network.tcp_info import parse, tcp_info
from strategies import wire
from tests.deployment.relay import Shape, TcpRelay


@pytest.fixture(scope="module")
def superlink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Port of a SuperLink's API on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "flwr.superlink.main:app", "--port", str(port), "--log-level", "error"]
    environment = {**os.environ, "FLWR_HOME": str(tmp_path_factory.mktemp("flwr")), "FLWR_TELEMETRY_ENABLED": "0"}
    server = subprocess.Popen(command, env=environment)
    try:
        for _ in range(300):
            if server.poll() is not None:
                pytest.fail("the SuperLink's API did not start")
            # Its first answer takes many times as long as the later ones, which are what is measured.
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10):
                break
            time.sleep(0.1)
        yield port
    finally:
        server.terminate()
        server.wait()


def through(superlink: int, shape: Shape) -> TcpRelay:
    return TcpRelay(("127.0.0.1", superlink), shape)


@pytest.mark.timed
def test_a_slow_uplink_and_a_long_round_trip_are_found_behind_a_proxy(superlink: int) -> None:
    with through(superlink, Shape(uplink_bps=4e6, delay_s=0.06)) as relay:
        found = probe(ProbeTarget("127.0.0.1", relay.port), budget=Budget(2.0, 1_000_000))
    assert found.rtt_s == pytest.approx(0.06, rel=0.3)
    assert found.uplink_bps == pytest.approx(4e6, rel=0.3)
    assert found.loss_rate is None  # the kernel's figures end at the proxy
    assert found.downlink_bps is None


@pytest.mark.timed
def test_a_slow_downlink_is_found(superlink: int) -> None:
    with through(superlink, Shape(downlink_bps=4e6, delay_s=0.06)) as relay:
        found = probe(ProbeTarget("127.0.0.1", relay.port), direction="down", budget=Budget(2.0, 1_000_000))
    assert found.downlink_bps == pytest.approx(4e6, rel=0.3)
    assert found.uplink_bps is None


@pytest.mark.timed
def test_without_a_proxy_the_kernel_tells_the_round_trip(superlink: int) -> None:
    found = min((probe(ProbeTarget("127.0.0.1", superlink), direction="none") for _ in range(3)), key=lambda f: f.rtt_s)
    assert 0 < found.rtt_s < 0.01  # of one probe alone, a busy scheduler may have a part
    assert 0 <= found.jitter_s < 0.1
    assert (found.uplink_bps, found.downlink_bps) == (None, None)


def test_a_probe_sends_no_more_than_its_budget(superlink: int) -> None:
    with through(superlink, Shape(uplink_bps=50e6, delay_s=0.02)) as relay:
        probe(ProbeTarget("127.0.0.1", relay.port), budget=Budget(5.0, 300_000))
        assert 250_000 < relay.bytes_up < 400_000  # the budget, requests, and what was under way


def test_a_dead_line_ends_the_probe_with_a_cause(superlink: int) -> None:
    with through(superlink, Shape()) as relay:
        relay.cut()
        with pytest.raises(NetworkError, match="does not answer the probe"):
            probe(ProbeTarget("127.0.0.1", relay.port), budget=Budget(0.3, 1000))


def test_a_closed_port_ends_the_probe_with_a_cause() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(NetworkError, match="refused"):
        probe(ProbeTarget("127.0.0.1", port))


def test_a_server_that_speaks_no_http_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def babble() -> None:
            for _ in range(4):
                connection, _ = listener.accept()
                connection.sendall(b"x" * 100_000)
                connection.close()

        thread = threading.Thread(target=babble)
        thread.start()
        with pytest.raises(NetworkError):
            probe(ProbeTarget("127.0.0.1", listener.getsockname()[1]))
        thread.join()


@pytest.mark.parametrize("address", ["", "host", "host:", ":80", "host:0", "host:70000", "host:http", "[::1]"])
def test_an_address_without_host_or_port_is_refused(address: str) -> None:
    with pytest.raises(NetworkError, match="HOST:PORT"):
        ProbeTarget.parse(address)


def test_addresses_are_verified_by_tls_unless_told_otherwise() -> None:
    assert ProbeTarget.parse("[::1]:8000").host == "::1"
    assert ProbeTarget.parse("host:1").tls is not None
    assert ProbeTarget.parse("host:1", insecure=True).tls is None
    with pytest.raises(NetworkError, match="cannot read"):
        ProbeTarget.parse("host:1", "/nowhere/ca.crt")


def connected() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        return near, listener.accept()[0]


def test_the_kernel_counts_what_the_peer_acknowledged() -> None:
    near, far = connected()
    with near, far:
        before = tcp_info(near)
        near.sendall(bytes(50_000))
        left = 50_000
        while left:
            left -= len(far.recv(left))
        far.sendall(b".")  # carries the acknowledgement
        near.recv(1)
        after = tcp_info(near)
    assert before and after
    assert after.bytes_acked - before.bytes_acked == 50_000
    assert after.bytes_sent - before.bytes_sent == 50_000
    assert 0 < after.min_rtt_s <= after.rtt_s + 1e-3


def test_a_kernel_that_tells_less_tells_nothing() -> None:
    assert parse(bytes(104)) is None


def test_two_probes_in_three_measure_the_uplink_and_a_large_reply_spares_the_bulk() -> None:
    assert [direction_of(n, last_reply_bytes=0) for n in range(6)] == ["up", "down", "up"] * 2
    assert direction_of(0, last_reply_bytes=2_000_000) == "none"


def test_a_node_that_was_not_told_the_address_reports_nothing() -> None:
    assert target_of({}) is None
    state = RecordDict()
    assert report_link({}, state) is None
    assert state.metric_records[link_report.MEMORY]["number"] == 1


def test_a_failing_probe_costs_only_its_record() -> None:
    state = RecordDict()
    assert report_link({"superlink": "nonsense"}, state) is None
    assert report_link({"superlink": "127.0.0.1:9", "insecure": True}, state) is None
    assert state.metric_records[link_report.MEMORY]["number"] == 2


def test_the_record_leaves_out_what_was_not_found() -> None:
    record = link_report.record_of(LinkFindings(0.1, 0.01, uplink_bps=1e6))
    assert dict(record) == {wire.RTT_S: 0.1, wire.JITTER_S: 0.01, wire.UPLINK_BPS: 1e6}


def test_a_node_reports_its_link(superlink: int) -> None:
    state = RecordDict()
    record = report_link({"superlink": f"127.0.0.1:{superlink}", "insecure": "true"}, state, reply_bytes=5_000_000)
    assert record is not None and record[wire.RTT_S] > 0
    began_s = time.monotonic()
    second = report_link({"superlink": f"127.0.0.1:{superlink}", "insecure": "true"}, state)
    assert second is not None and wire.UPLINK_BPS not in second  # the server timed the large reply itself
    assert time.monotonic() - began_s < 2
