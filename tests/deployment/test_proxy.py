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
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from hypergpu_fl.children import free_port
from hypergpu_fl.network.certificates import write_certificates
from tests.deployment.conftest import MakeMachine
from tests.deployment.containers import Container, Mount
from tests.deployment.images import PATH, USER

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
        self.received = 0  # bytes of the largest body
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
        self.server.received = max(self.server.received, len(body))
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
def start_proxy(
    upstream: Upstream, keys: Path, proxy_program: tuple[str, Path], tmp_path: Path
) -> Iterator[Callable[..., int]]:
    """Start a proxy with its file, fitted to this machine's addresses and folders and else unchanged; its port."""
    name, program = proxy_program
    with contextlib.ExitStack() as ends:

        def start(**fitting: str) -> int:
            port = free_port()
            text = (PROXY / {"nginx": "nginx.conf", "caddy": "Caddyfile"}[name]).read_text()
            text = text.replace("/tmp/", f"{tmp_path}/")
            fitted = {"superlink:8000": f"127.0.0.1:{upstream.server_port}", "/run/keys": str(keys), "8443": str(port)}
            for theirs, ours in (fitted | fitting).items():
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
            ends.callback(process.wait, timeout=20)
            ends.callback(process.terminate)
            until_s = time.monotonic() + START_LIMIT_S
            while time.monotonic() < until_s and process.poll() is None:
                with contextlib.suppress(OSError):
                    if ask(keys, port, "GET", "/health")[0] == 200:
                        break
                time.sleep(0.05)
            else:
                raise RuntimeError(f"{name} did not start: {(tmp_path / 'log').read_text()}")
            upstream.paths.clear()
            return port

        yield start


@pytest.fixture
def proxy(start_proxy: Callable[..., int]) -> int:
    """Port of a proxy that runs."""
    return start_proxy()


def ask(
    keys: Path, port: int, method: str, path: str, body: bytes = b"", *, host: str = "127.0.0.1"
) -> tuple[int, bytes]:
    """Status and body of the answer; the path is sent as it stands."""
    trust = ssl.create_default_context(cafile=str(keys / "ca.crt"))
    with contextlib.closing(http.client.HTTPConnection(host, port, timeout=10)) as connection:
        connection.connect()
        connection.sock = trust.wrap_socket(connection.sock, server_hostname="localhost")
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


def test_a_body_beyond_what_nodes_send_is_refused(keys: Path, upstream: Upstream, proxy: int) -> None:
    with contextlib.suppress(ConnectionError, ssl.SSLError):  # some close the connection before all is sent
        assert ask(keys, proxy, "POST", "/v1/fleet/push-object", bytes(17 * 2**20))[0] == 413
    assert upstream.received < 17 * 2**20
    assert ask(keys, proxy, "POST", "/v1/fleet/push-object", CHUNK) == (200, CHUNK)


@pytest.mark.parametrize("proxy_program", ["nginx"], indirect=True)  # Caddy has no such bound, as its file says
def test_requests_beyond_the_rate_wait_and_those_far_beyond_are_refused(
    keys: Path, start_proxy: Callable[..., int], upstream: Upstream
) -> None:
    port = start_proxy(**{"rate=1000r/s": "rate=5r/s", "burst=2000 delay=500": "burst=5"})
    time.sleep(1.0)
    began_s = time.monotonic()
    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(lambda _: ask(keys, port, "POST", "/v1/fleet/pull-messages")[0], range(20)))
    assert set(answers) == {200, 429} and answers.count(200) == len(upstream.paths) < 15
    assert time.monotonic() - began_s > 0.8  # five of them waited for their turn


def test_a_superlink_that_comes_back_under_another_address_is_found(
    keys: Path, upstream: Upstream, proxy_program: tuple[str, Path], make_machine: MakeMachine
) -> None:
    name, program = proxy_program
    machine = make_machine()
    names = machine.wires.names.setdefault("proxied", {})
    names["superlink"] = machine.wires.serve(8000, lambda: [("127.0.0.1", upstream.server_port)])
    image = machine.images("nginx:x")
    command = (*image.entrypoint, *image.command)
    mounts = [Mount("/run/keys", keys, read_only=True), Mount("/tmp")]
    if name == "nginx":
        mounts.append(Mount("/etc/nginx/nginx.conf", PROXY.parent / "compose" / "nginx.conf", read_only=True))
    else:
        mounts.append(Mount("/etc/caddy/Caddyfile", PROXY / "Caddyfile", read_only=True))
        command = (str(program), "run", "--config", "/etc/caddy/Caddyfile")
    for path in (keys, *keys.iterdir()):
        os.chown(path, USER, USER)
    environ = {"PATH": PATH, "HOME": "/tmp"}
    machine.start(Container("proxy", image, command, environ, tuple(mounts), "/", USER, USER, True), "proxied")
    host = machine.addresses["proxy"]

    def answers() -> bool:
        with contextlib.suppress(OSError):
            return ask(keys, 8443, "GET", "/health", host=host)[0] == 200
        return False

    machine.until(answers, "the proxy to answer", START_LIMIT_S)
    machine.wires.stop(names["superlink"])
    machine.until(lambda: not answers(), "the SuperLink to be gone", START_LIMIT_S)
    names["superlink"] = machine.wires.serve(8000, lambda: [("127.0.0.1", upstream.server_port)])
    machine.until(answers, "the SuperLink to be found", 30.0)
