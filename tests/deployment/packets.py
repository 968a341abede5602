"""Links between network namespaces: ``tc tbf`` for the rate, and a packet relay in user space for delay and loss.

netem is missing on many kernels. Here each node's namespace reaches the host through a pair of TUN devices; this
program carries the packets between the two, late or not at all, so TCP sees a real path: round trips,
retransmissions and congestion. Run as root: ``python packets.py '<JSON of sites>'``; it says ``ready``, then takes
one JSON object a line on standard input, ``{"site": 0, "cut": true}``, until that is closed.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import json
import os
import random
import select
import struct
import subprocess
import sys
import time
from typing import Any

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000


class Site:
    """One namespace behind one link."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.namespace = str(config["namespace"])
        self.delay_s = float(config.get("delay_s", 0.0))  # round trip
        self.loss = float(config.get("loss", 0.0))
        self.cut = False
        near, far = str(config["device"]) + "n", str(config["device"]) + "h"
        self.node_fd, self.host_fd = _tun(near), _tun(far)
        ip("netns", "add", self.namespace)
        ip("link", "set", near, "netns", self.namespace)
        inside = ("-n", self.namespace)
        ip(*inside, "link", "set", "lo", "up")
        ip(*inside, "addr", "add", config["node_address"], "peer", config["host_address"], "dev", near)
        ip(*inside, "link", "set", near, "up")
        ip(*inside, "route", "add", "default", "via", config["host_address"])
        ip("addr", "add", config["host_address"], "peer", config["node_address"], "dev", far)
        ip("link", "set", far, "up")
        for prefix, device, bps in (
            (["ip", "netns", "exec", self.namespace], near, config["uplink_bps"]),
            ([], far, config["downlink_bps"]),
        ):
            shape = ["root", "tbf", "rate", f"{int(bps)}bit", "burst", "32kbit", "latency", "400ms"]
            subprocess.run([*prefix, "tc", "qdisc", "add", "dev", device, *shape], check=True)

    def close(self) -> None:
        """Remove the devices and the namespace."""
        os.close(self.node_fd)
        os.close(self.host_fd)
        subprocess.run(["ip", "netns", "del", self.namespace], check=False)


def ip(*words: str) -> None:
    """Run ``ip``."""
    subprocess.run(["ip", *words], check=True)


def _tun(name: str) -> int:
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return device


def relay(sites: list[Site], *, seed: int = 0) -> None:
    """Carry packets until standard input is closed."""
    chance = random.Random(seed)
    routes = {site.node_fd: (site, site.host_fd) for site in sites}
    routes.update({site.host_fd: (site, site.node_fd) for site in sites})
    watched = [*routes, sys.stdin.fileno()]
    waiting: list[tuple[float, int, int, bytes]] = []
    count = 0
    while True:
        timeout_s = min(1.0, max(0.0, waiting[0][0] - time.monotonic())) if waiting else 1.0
        readable, _, _ = select.select(watched, [], [], timeout_s)
        for fd in readable:
            if fd not in routes:
                if not (line := sys.stdin.readline()):
                    return
                _apply(sites, json.loads(line))
                continue
            site, sink = routes[fd]
            for _ in range(16):
                try:
                    packet = os.read(fd, 65_536)
                except BlockingIOError:
                    break
                if site.cut or (site.loss and chance.random() < site.loss):
                    continue
                count += 1
                heapq.heappush(waiting, (time.monotonic() + site.delay_s / 2, count, sink, packet))
        now_s = time.monotonic()
        while waiting and waiting[0][0] <= now_s:
            _, _, sink, packet = heapq.heappop(waiting)
            with contextlib.suppress(OSError):  # a full queue drops, as a router would
                os.write(sink, packet)


def _apply(sites: list[Site], change: dict[str, Any]) -> None:
    site = sites[int(change.pop("site"))]
    for name in ("cut", "delay_s", "loss"):
        if name in change:
            setattr(site, name, change[name])


def main() -> None:
    """Make the sites, relay, and remove them."""
    sites: list[Site] = []
    try:
        for config in json.loads(sys.argv[1]):
            sites.append(Site(config))
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        relay(sites)
    finally:
        for site in sites:
            site.close()


if __name__ == "__main__":
    main()
