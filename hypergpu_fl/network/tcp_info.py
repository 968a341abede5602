"""The kernel's figures for a TCP connection: Linux' ``TCP_INFO`` (``struct tcp_info`` in linux/tcp.h)."""

from __future__ import annotations

import socket
import struct
import sys
from dataclasses import dataclass

# Offsets in struct tcp_info; it only ever grows at its end, so an older kernel returns fewer bytes.
_RTT_US = 68
_BYTES_ACKED = 120
_MIN_RTT_US = 148
_BYTES_SENT = 200
_BYTES_RETRANS = 208
_DSACK_DUPS = 216
_SND_MSS = 16
_SIZE = 220
_UNKNOWN_US = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class TcpInfo:
    """A connection's state. ``rtt_s`` is smoothed (RFC 6298), ``min_rtt_s`` the least seen; 0 while unknown.

    ``bytes_lost`` is what was sent again, less what the receiver reported as duplicate (RFC 2883): tail probes and
    early timeouts are not losses.
    """

    rtt_s: float
    min_rtt_s: float
    bytes_acked: int
    bytes_sent: int
    bytes_lost: int


def parse(raw: bytes) -> TcpInfo | None:
    """``struct tcp_info`` to figures; None if the kernel (before 4.19) does not give all of them."""
    if len(raw) < _SIZE:
        return None
    rtt_us, min_rtt_us, duplicates, mss = (
        struct.unpack_from("=I", raw, at)[0] for at in (_RTT_US, _MIN_RTT_US, _DSACK_DUPS, _SND_MSS)
    )
    acked, sent, retransmitted = (
        struct.unpack_from("=Q", raw, at)[0] for at in (_BYTES_ACKED, _BYTES_SENT, _BYTES_RETRANS)
    )
    return TcpInfo(
        rtt_s=rtt_us / 1e6,
        min_rtt_s=0.0 if min_rtt_us == _UNKNOWN_US else min_rtt_us / 1e6,
        bytes_acked=acked,
        bytes_sent=sent,
        bytes_lost=max(0, retransmitted - duplicates * mss),
    )


def tcp_info(connection: socket.socket) -> TcpInfo | None:
    """State of ``connection``, or None where the system does not tell (macOS, Windows, old kernels)."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return parse(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256))
    except OSError:
        return None
