"""Active probe of the link to the SuperLink: round-trip time, jitter, loss, and the rate of one direction.

It speaks plain HTTP/1.1 to the SuperLink's own port, so nothing has to be installed beside it: ``GET /health`` for
round trips, bodies posted to ``/health`` for the uplink (refused with 405, but read), ``GET /openapi.json`` for the
downlink. Durations come from this machine's monotonic clock or its kernel; nothing is compared between hosts.

Several connections share the bulk, since one alone spends a second of a long link in slow start.
"""

from __future__ import annotations

import math
import os
import select
import socket
import ssl
import statistics
import struct
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from hypergpu_fl.errors import NetworkError
from hypergpu_fl.network.bandwidth import bottleneck_bps
from hypergpu_fl.network.tcp_info import TcpInfo, tcp_info

Direction = Literal["up", "down", "none"]
Progress = list[tuple[float, int]]  # seconds, bytes delivered until then

STREAMS: Final = 4
UNIT_BYTES: Final = 64 * 1024  # body of one posted request; the server takes 1-2 ms for each
ANSWERED_UNIT_BYTES: Final = 16 * 1024  # where only the answers show progress
TICK_S: Final = 0.0005
LONG_RTT_S: Final = 0.1  # beyond this no proxy is near, and round trips are better spent on the bulk
QUEUE_S: Final = 0.08  # a standing queue longer than this delays the node's other traffic; sending pauses
NEAR_S, PROXY_FACTOR, PROXY_S = 0.01, 4.0, 0.015
MOST_HEALTH_REQUESTS: Final = 5


@dataclass(frozen=True, slots=True)
class ProbeTarget:
    """A SuperLink's address, and how to trust it; ``tls`` None is plain HTTP."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None

    @classmethod
    def parse(cls, address: str, root_certificates: str = "", *, insecure: bool = False) -> ProbeTarget:
        """Target of ``HOST:PORT`` (``[IPv6]:PORT``), verified against a PEM file or the system's authorities.

        Raises
        ------
        NetworkError
            If the address or the file cannot be read.
        """
        host, colon, port = address.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise NetworkError(f"the SuperLink address {address!r} is not HOST:PORT", "write --node-config superlink")
        if insecure:
            return cls(host, int(port))
        try:
            tls = ssl.create_default_context(cafile=str(Path(root_certificates)) if root_certificates else None)
        except (OSError, ssl.SSLError) as error:
            raise NetworkError(f"cannot read {root_certificates}: {error}", "check root-certificates") from error
        return cls(host, int(port), tls)


@dataclass(frozen=True, slots=True)
class Budget:
    """What one probe may cost: a second, less the time for closing."""

    seconds: float = 0.95
    payload_bytes: int = 1_000_000


@dataclass(frozen=True, slots=True)
class LinkFindings:
    """What a probe found; None where it found nothing. ``loss_rate`` is retransmitted over sent bytes."""

    rtt_s: float
    jitter_s: float
    loss_rate: float | None = None
    uplink_bps: float | None = None
    downlink_bps: float | None = None


class _Stream:
    """One connection: its handshakes and health requests done, ready for bulk."""

    def __init__(self, target: ProbeTarget, deadline_s: float) -> None:
        self.host = f"{target.host}:{target.port}".encode()
        began_s = time.monotonic()
        family, _, _, _, address = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)[0]
        raw = socket.socket(family, socket.SOCK_STREAM)
        try:
            raw.settimeout(max(0.01, deadline_s - began_s))
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # On close, discard bulk data that was not sent yet.
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if hasattr(socket, "TCP_CONGESTION"):  # BBR paces from its start on, which hides the bottleneck's spacing
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
            raw.connect(address)
            self.connect_s = time.monotonic() - began_s
            self.socket = target.tls.wrap_socket(raw, server_hostname=target.host) if target.tls else raw
        except BaseException:
            raw.close()
            raise
        self.health_s: list[float] = []

    def ask(self, path: str = "/health") -> None:
        """One request with an empty answer, timed."""
        began_s = time.monotonic()
        self.socket.sendall(b"GET %s HTTP/1.1\r\nHost: %s\r\n\r\n" % (path.encode(), self.host))
        answer = b""
        while b"\r\n\r\n" not in answer:
            if not (part := self.socket.recv(4096)) or len(answer) > 16_384:
                raise ConnectionError("the answer to GET /health is not HTTP")
            answer += part
        self.health_s.append(time.monotonic() - began_s)
        if not answer.startswith(b"HTTP/1.1 200"):
            raise ConnectionError(f"GET {path} was answered {answer[:40]!r}")

    def info(self) -> TcpInfo | None:
        return tcp_info(self.socket)


def probe(target: ProbeTarget, *, direction: Direction = "up", budget: Budget | None = None) -> LinkFindings:
    """Measure the link to ``target``, within ``budget``.

    The round trip is the kernel's least before any bulk. Where that is under 10 ms, but requests take over four
    times as long and 15 ms, a proxy ends the connection on the way, and the requests' own time counts. Jitter is
    the mean deviation from the least, over the connections.

    Raises
    ------
    NetworkError
        If the target does not answer.
    """
    budget = budget or Budget()
    deadline_s = time.monotonic() + budget.seconds
    try:
        with _streams(target, deadline_s, direction) as streams:
            idle = [stream.info() for stream in streams]
            rtt_s, jitter_s, proxied = _round_trip(streams, idle)
            up_bps = down_bps = None
            if direction == "up" and all(idle) and not proxied:
                up_bps = bottleneck_bps(_upload(streams, budget.payload_bytes, deadline_s), rtt_s=rtt_s)
            elif direction == "up":
                answered = _upload(streams, budget.payload_bytes, deadline_s, by_answers=True)
                up_bps = bottleneck_bps(answered, rtt_s=math.inf)  # answers come in clumps, which are not packet trains
            elif direction == "down":
                down_bps = bottleneck_bps(_download(streams, budget.payload_bytes, deadline_s), rtt_s=rtt_s)
            loss_rate = _loss_rate([stream.info() for stream in streams]) if not proxied else None
    except (OSError, ssl.SSLError) as error:
        raise NetworkError(
            f"the SuperLink at {target.host}:{target.port} does not answer the probe: {error}",
            "check superlink and root-certificates in this node's --node-config",
        ) from error
    return LinkFindings(rtt_s, jitter_s, loss_rate, up_bps, down_bps)


@contextmanager
def _streams(target: ProbeTarget, deadline_s: float, direction: Direction) -> Iterator[Sequence[_Stream]]:
    def open_one(_: int) -> _Stream:
        stream = _Stream(target, deadline_s)
        try:
            stream.socket.settimeout(max(0.01, deadline_s + 2 * stream.connect_s - time.monotonic()))
            requests = 0 if direction == "up" and stream.connect_s > LONG_RTT_S else MOST_HEALTH_REQUESTS
            # Two at least: one long answer may be a busy server's, not a proxy's.
            while len(stream.health_s) < requests and (len(stream.health_s) < 2 or sum(stream.health_s) < budget_s / 8):
                stream.ask()
        except BaseException:
            stream.socket.close()
            raise
        return stream

    budget_s = deadline_s - time.monotonic()
    with ExitStack() as stack, ThreadPoolExecutor(STREAMS) as pool:
        opened = [pool.submit(open_one, k) for k in range(STREAMS)]
        streams = []
        failures = []
        for future in opened:
            try:
                streams.append(future.result())
                stack.callback(streams[-1].socket.close)
            except OSError as error:
                failures.append(error)
        if not streams:
            raise failures[0]
        for stream in streams:
            stream.socket.setblocking(False)
        yield streams


def _round_trip(streams: Sequence[_Stream], infos: Sequence[TcpInfo | None]) -> tuple[float, float, bool]:
    health_s = [s for stream in streams for s in stream.health_s]
    kernel_s = [info.rtt_s for info in infos if info and info.rtt_s > 0]
    least_s = min([info.min_rtt_s for info in infos if info and info.min_rtt_s > 0], default=0.0)
    if not least_s:
        kernel_s = [stream.connect_s for stream in streams]
        least_s = min(kernel_s)
    proxied = least_s < NEAR_S and min(health_s, default=0.0) > PROXY_FACTOR * least_s + PROXY_S
    samples_s = health_s if proxied else kernel_s
    rtt_s = min(health_s) if proxied else least_s
    return rtt_s, statistics.fmean(samples_s) - min(samples_s), proxied


def _loss_rate(infos: Sequence[TcpInfo | None]) -> float | None:
    known = [info for info in infos if info]
    sent = sum(info.bytes_sent for info in known)
    return min(1.0, sum(info.bytes_lost for info in known) / sent) if sent else None


def _upload(streams: Sequence[_Stream], payload_bytes: int, deadline_s: float, *, by_answers: bool = False) -> Progress:
    """Post bodies on all streams; progress is what the kernel saw acknowledged, or what the server answered."""
    unit_bytes = ANSWERED_UNIT_BYTES if by_answers else UNIT_BYTES
    body = os.urandom(unit_bytes)  # random, so that a compressing middlebox cannot help
    uploads = [_Upload(stream, body) for stream in streams]
    in_the_end = payload_bytes - (2 * unit_bytes * len(uploads) if by_answers else 0)  # last answers come too early
    progress: Progress = []
    while (now_s := time.monotonic()) < deadline_s and not (progress and progress[-1][1] >= in_the_end):
        offered = sum(upload.offered for upload in uploads)
        for upload in uploads:
            if offered < payload_bytes:
                offered += upload.push()
            upload.read_answers()
        progress.append((now_s, sum(u.answered if by_answers else u.acknowledged() for u in uploads)))
        time.sleep(TICK_S)
    return progress


class _Upload:
    """An endless row of posted bodies on one stream."""

    def __init__(self, stream: _Stream, body: bytes) -> None:
        self._socket = stream.socket
        self._stream = stream
        head = b"POST /health HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n" % (stream.host, len(body))
        self._unit = memoryview(head + body)
        self._at = 0
        self._tail = b""
        self._answers = 0
        self.offered = 0
        info = stream.info()
        self._acked_before = info.bytes_acked if info else 0

    @property
    def answered(self) -> int:
        """Bytes that the server has surely read: it answers on a request's head, so all bodies but the last."""
        return max(0, self._answers - 1) * len(self._unit)

    def acknowledged(self) -> int:
        info = self._stream.info()
        return info.bytes_acked - self._acked_before if info else 0

    def push(self) -> int:
        """Write a little unless a queue stands; returns the bytes taken."""
        info = self._stream.info()
        if info and info.min_rtt_s and info.rtt_s > info.min_rtt_s + QUEUE_S:
            return 0
        try:
            sent = self._socket.send(self._unit[self._at : self._at + 16_384])
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return 0
        self._at = (self._at + sent) % len(self._unit)
        self.offered += sent
        return sent

    def read_answers(self) -> None:
        part = _read(self._socket)
        joined = self._tail + part
        self._answers += joined.count(b"HTTP/1.1 ") - self._tail.count(b"HTTP/1.1 ")
        self._tail = joined[-8:]


def _download(streams: Sequence[_Stream], payload_bytes: int, deadline_s: float) -> Progress:
    """Request the API's description repeatedly on all streams; progress is what arrived."""
    progress: Progress = []
    got = 0
    request = b"GET /openapi.json HTTP/1.1\r\nHost: %s\r\n\r\n"
    for stream in streams:
        stream.socket.setblocking(True)
        stream.socket.settimeout(max(0.01, deadline_s - time.monotonic()))
        stream.socket.sendall(request % stream.host * 8)
        stream.socket.setblocking(False)
    while (now_s := time.monotonic()) < deadline_s and got < payload_bytes:
        for stream in streams:
            part = _read(stream.socket)
            if part.startswith(b"HTTP/1.1 4"):
                return []  # a proxy shows /health and the Fleet API only
            got += len(part)
        progress.append((now_s, got))
        select.select([stream.socket for stream in streams], [], [], 0.02)
    return progress


def _read(connection: socket.socket) -> bytes:
    try:
        part = connection.recv(262_144)
    except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return b""
    if not part:
        raise ConnectionError("the SuperLink closed the connection")
    return part
