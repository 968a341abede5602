"""The proxy's files under deploy/: of what stands behind them, the Fleet API and /health show, and nothing else."""

from __future__ import annotations

import contextlib
import datetime
import http.client
import os
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from hypergpu_fl.cli.superlink import free_port
from hypergpu_fl.network.certificates import write_certificates

PROXY = Path(__file__).resolve().parents[2] / "deploy" / "proxy"
CHUNK = os.urandom(5 * 2**20)  # as Flower sends arrays
START_LIMIT_S = 20.0
HIDDEN = [
    "/",
    "/docs",
    "/openapi.json",
    "/v1/control/list-runs",
    "/v1/control/start-run",
    "/v1/runtime/push-task-output",
    "/V1/CONTROL/list-runs",
    "//v1/control/list-runs",
    "/health/../v1/control/list-runs",
    "/health/v1/control/list-runs",
    "/v1/fleet",
    "/v1/fleet/../control/list-runs",
    "/v1/fleet/%2e%2e/control/list-runs",
    "/v1/fleet/..%2fcontrol/list-runs",
    "/v1/fleet/%2e%2e%2fcontrol/list-runs",
    "/v1/fleet/x/..//../control/list-runs",
    "/v1/control/list-runs%3f/v1/fleet/x",
]
# Paths that mean the Fleet API, though they do not look like it; they may pass, but only as what they mean.
DEVIOUS = [
    "/v1/control/../fleet/x",
    "/v1/control/list-runs/../../fleet/x",
    "/v1/control/list-runs%2f..%2f..%2ffleet/x",
    "/v1/control/%2e%2e/fleet/x",
    "/v1//fleet/x",
]


class Upstream(ThreadingHTTPServer):
    """Stands where the SuperLink would: answers everything, and remembers what it was asked."""

    daemon_threads = True

    def __init__(self, keys: Path) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.paths: list[str] = []
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(keys / "server.pem", keys / "server.key")
        self.socket = context.wrap_socket(self.socket, server_side=True)

    def handle_error(self, request: object, client_address: object) -> None:
        """Connections that proxies keep open end with the test."""


class Answer(BaseHTTPRequestHandler):
    """Sends back what came."""

    protocol_version = "HTTP/1.1"
    server: Upstream

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        self.server.paths.append(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates for this machine."""
    folder = tmp_path_factory.mktemp("keys")
    write_certificates(folder, [], now=datetime.datetime.now(datetime.UTC))
    return folder


@pytest.fixture
def upstream(keys: Path) -> Iterator[Upstream]:
    """A server that shows what reaches it."""
    with Upstream(keys) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(upstream: Upstream, keys: Path, proxy_program: tuple[str, Path], tmp_path: Path) -> Iterator[int]:
    """Port of a proxy that runs with its file, fitted to this machine's addresses and folders and else unchanged."""
    name, program = proxy_program
    port = free_port()
    text = (PROXY / {"nginx": "nginx.conf", "caddy": "Caddyfile"}[name]).read_text()
    text = text.replace("/tmp/", f"{tmp_path}/")
    fitted = {"superlink:8000": f"127.0.0.1:{upstream.server_port}", "/run/keys": str(keys), "8443": str(port)}
    for theirs, ours in fitted.items():
        assert theirs in text
        text = text.replace(theirs, ours)
    file = tmp_path / "configuration"
    file.write_text(text)
    command = {
        "nginx": ["-e", "stderr", "-c", str(file), "-p", str(tmp_path), "-g", "daemon off; user root;"],
        "caddy": ["run", "--adapter", "caddyfile", "--config", str(file)],
    }[name]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(program), *command], stdout=log, stderr=log, env={**os.environ, "HOME": str(tmp_path)}
        )
    try:
        until_s = time.monotonic() + START_LIMIT_S
        while time.monotonic() < until_s and process.poll() is None:
            with contextlib.suppress(OSError):
                if ask(keys, port, "GET", "/health")[0] == 200:
                    break
            time.sleep(0.05)
        else:
            raise RuntimeError(f"{name} did not start: {(tmp_path / 'log').read_text()}")
        upstream.paths.clear()
        yield port
    finally:
        process.terminate()
        process.wait(timeout=20)


def ask(keys: Path, port: int, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    """Status and body of the answer; the path is sent as it stands."""
    trust = ssl.create_default_context(cafile=str(keys / "ca.crt"))
    with contextlib.closing(http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=trust)) as connection:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()


def test_what_nodes_need_passes_whole(keys: Path, upstream: Upstream, proxy: int) -> None:
    assert ask(keys, proxy, "GET", "/health")[0] == 200
    assert ask(keys, proxy, "POST", "/v1/fleet/push-object", CHUNK) == (200, CHUNK)
    assert upstream.paths == ["/health", "/v1/fleet/push-object"]


def test_nothing_else_reaches_the_superlink(keys: Path, upstream: Upstream, proxy: int) -> None:
    for method in ("GET", "POST"):
        for path in HIDDEN:
            assert ask(keys, proxy, method, path)[0] != 200, (method, path)
        assert upstream.paths == []
    for path in DEVIOUS:
        ask(keys, proxy, "POST", path)
    assert all(path.startswith("/v1/fleet/") for path in upstream.paths), upstream.paths
