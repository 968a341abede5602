"""Which errors of a connection are tried again, by real servers that behave in these ways."""

from __future__ import annotations

import contextlib
import datetime
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from flwr.supercore.retry import make_simple_http_retry_invoker

from hypergpu_fl.handshakes import patient
from hypergpu_fl.network.certificates import write_certificates


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of an authority that the client does not know, and one that it knows."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("known", "unknown"):
        write_certificates(folder / name, [], now=datetime.datetime.now(datetime.UTC))
    return folder


def in_tls(connection: socket.socket, keys: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(keys / "unknown" / "server.pem", keys / "unknown" / "server.key")
    with contextlib.suppress(OSError):
        context.wrap_socket(connection, server_side=True)


BEHAVE: dict[str, tuple[Callable[[socket.socket, Path], object], bool]] = {
    "closes": (lambda one, keys: one.recv(4096), True),
    "resets": (lambda one, keys: one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"), True),
    "breaks off within its answer": (lambda one, keys: (one.recv(4096), one.sendall(b"\x16\x03\x03\x00\x7a\2")), True),
    "says nothing": (lambda one, keys: one.recv(4096) and one.recv(4096), True),
    "speaks no TLS": (lambda one, keys: (one.recv(4096), one.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")), False),
    "has another authority's certificate": (in_tls, False),
}


@contextlib.contextmanager
def serving(behave: Callable[[socket.socket, Path], object], keys: Path) -> Iterator[tuple[int, list[int]]]:
    """A server's port, and a list that grows with each connection."""
    connections: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    one, _ = listener.accept()
                    connections.append(1)
                    with one, contextlib.suppress(OSError):
                        behave(one, keys)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1], connections
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize("way", BEHAVE)
def test_a_handshake_is_tried_again_unless_the_next_one_would_end_alike(way: str, keys: Path) -> None:
    behave, again = BEHAVE[way]
    invoker = patient(make_simple_http_retry_invoker)()
    invoker.max_tries, invoker.wait_function = 3, lambda seconds: None
    trust = ssl.create_default_context(cafile=str(keys / "known" / "ca.crt"))
    with (
        serving(behave, keys) as (port, connections),
        httpx.Client(verify=trust, timeout=0.5, trust_env=False) as client,
    ):
        with pytest.raises(httpx.TransportError):
            invoker.invoke(client.get, f"https://localhost:{port}/health")
        assert len(connections) == (3 if again else 1)


def test_what_flower_says_of_answers_still_holds() -> None:
    invoker = patient(make_simple_http_retry_invoker)()
    asked = httpx.Request("GET", "https://localhost/health")
    for status, gives_up in ((404, True), (503, False)):
        error = httpx.HTTPStatusError("", request=asked, response=httpx.Response(status, request=asked))
        assert invoker.should_giveup(error) is gives_up
