"""The network of containers: a bridge, a namespace each, a resolver as an engine's, and ports that are passed on."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import random
import selectors
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Sequence

from interfaces import interfaces

RESOLVER = "127.0.0.11"
_CLONE_NEWNET = 0x40000000
_ENDED = socket.socket()  # stands in a list of connections when there will be no more
_ENDED.close()


class Wires:
    """A network that ends with the block; takes root.

    ``names`` tells where a name lies now, for the containers of one scope: a compose project, a cluster's namespace.
    """

    def __init__(self) -> None:
        dice = random.SystemRandom()
        self._prefix, self._bridge = f"10.{dice.randrange(16, 240)}", f"hg{dice.randrange(16**6):06x}"
        self.host = f"{self._prefix}.0.1"
        self._next = itertools.count(2)
        self.names: dict[str, dict[str, str]] = {}
        self._passed: dict[str, list[socket.socket]] = {}
        self._exits = contextlib.ExitStack()
        self._selector = selectors.DefaultSelector()
        self._waker = socket.socketpair()

    def __enter__(self) -> Wires:
        with contextlib.ExitStack() as undo:
            _ip("link", "add", self._bridge, "type", "bridge")
            undo.callback(_ip, "link", "del", self._bridge)
            _ip("addr", "add", f"{self.host}/16", "dev", self._bridge)
            _ip("link", "set", self._bridge, "up")
            self._selector.register(self._waker[0], selectors.EVENT_READ)
            thread = threading.Thread(target=self._resolve)
            thread.start()
            undo.callback(thread.join)
            undo.callback(self._waker[1].close)
            self._exits = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()
        self._waker[0].close()
        self._selector.close()

    def add(self, name: str, scope: str) -> tuple[str, str]:
        """Namespace and address for another container, which resolves the names of ``scope``."""
        number = next(self._next)
        space, outer, address = f"{self._bridge}-{name}-{number}", f"{self._bridge}v{number}", self._address(number)
        _ip("netns", "add", space)
        self._exits.callback(_ip, "netns", "del", space)
        _ip("link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", space)
        _ip("link", "set", outer, "master", self._bridge, "up")
        for words in (["addr", "add", f"{address}/16", "dev", "eth0"], ["link", "set", "eth0", "up"]):
            _ip("-n", space, *words)
        _ip("-n", space, "link", "set", "lo", "up")
        asked = _inside(space, lambda: _bound(socket.SOCK_DGRAM, (RESOLVER, 53)))
        self._exits.callback(asked.close)
        self._selector.register(asked, selectors.EVENT_READ, self.names.setdefault(scope, {}))
        return space, address

    def move(self, space: str) -> str:
        """Give a namespace another address, as a container that is made anew may get."""
        address = self._address(next(self._next))
        _ip("-n", space, "addr", "flush", "dev", "eth0")
        _ip("-n", space, "addr", "add", f"{address}/16", "dev", "eth0")
        return address

    def serve(self, port: int, targets: Callable[[], Sequence[tuple[str, int]]], address: str = "") -> str:
        """Pass connections to a new address (or the host's) and ``port`` on to the targets in turn, as Services do."""
        if not address:
            address = self._address(next(self._next))
            _ip("addr", "add", f"{address}/16", "dev", self._bridge)
        passed: list[socket.socket] = []
        self._passed[address] = passed
        thread = threading.Thread(target=_pass_on, args=((address, port), targets, passed))
        thread.start()
        self._exits.callback(thread.join)
        self._exits.callback(self.stop, address)
        return address

    def stop(self, address: str) -> None:
        """End what is served there, and every connection through it."""
        passed = self._passed.pop(address, [])
        passed.insert(0, _ENDED)
        for one in passed[1:]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _address(self, number: int) -> str:
        return f"{self._prefix}.{number // 250 + 1}.{number % 250 + 1}"

    def _resolve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._waker[0]:
                    return
                with contextlib.suppress(OSError):
                    query, sender = key.fileobj.recvfrom(4096)
                    key.fileobj.sendto(answer(query, key.data), sender)


def answer(query: bytes, names: dict[str, str]) -> bytes:
    """Answer of a resolver that knows these names' IPv4 addresses and no others (RFC 1035, section 4)."""
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode())
        at += query[at] + 1
    question = query[12 : at + 5]
    address = names.get(".".join(labels).lower())
    found = address is not None and question[-4:] == b"\0\1\0\1"
    flags = 0x8180 if address is not None else 0x8183  # no such name
    header = query[:2] + struct.pack(">HHHHH", flags, 1, int(found), 0, 0)
    record = b"\xc0\x0c\0\1\0\1" + struct.pack(">IH", 2, 4) + socket.inet_aton(address or "0.0.0.0") if found else b""
    return header + question + record


def _ip(*words: str) -> None:
    with interfaces():
        subprocess.run(["ip", *words], check=True, capture_output=True)


def _bound(kind: socket.SocketKind, at: tuple[str, int]) -> socket.socket:
    found = socket.socket(socket.AF_INET, kind)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.bind(at)
    return found


def _inside(space: str, make: Callable[[], socket.socket]) -> socket.socket:
    """A socket made in a network namespace; a namespace is a thread's, so that another thread makes it."""
    made: list[socket.socket] = []

    def enter() -> None:
        with open(f"/run/netns/{space}", "rb") as file:
            if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        made.append(make())

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    return made[0]


def _pass_on(
    at: tuple[str, int], targets: Callable[[], Sequence[tuple[str, int]]], passed: list[socket.socket]
) -> None:
    """Pass connections on while somebody answers there; meanwhile nobody listens, so that a caller is refused."""
    while passed[:1] != [_ENDED]:
        if not (reached := _reached(targets())):
            time.sleep(0.1)
            continue
        reached.close()
        with _bound(socket.SOCK_STREAM, at) as listener:
            passed.append(listener)
            listener.listen(64)
            for turn in itertools.count():
                if passed[0] is _ENDED:  # since before the listener was in the list
                    break
                try:
                    near, _ = listener.accept()
                except OSError:
                    break
                there = list(targets())
                far = _reached(there[turn % len(there) :] + there[: turn % len(there)] if there else [])
                if far is None:
                    near.close()
                    break
                passed += [near, far]
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=_copy, args=(one, other), daemon=True).start()


def _reached(there: Sequence[tuple[str, int]]) -> socket.socket | None:
    for one in there:
        with contextlib.suppress(OSError):
            return socket.create_connection(one, timeout=3)
    return None


def _copy(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.settimeout(None)
        while chunk := one.recv(1 << 16):
            other.sendall(chunk)
    for end in (one, other):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
