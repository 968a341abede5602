"""The proxy's files under deploy/: of what stands behind them, the Fleet API and /health show, and nothing else."""

from __future__ import annotations

import contextlib
import datetime
import http.client
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
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
LIMIT_S = 30.0
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
        self.open = threading.Event()  # while it is not set, nothing is answered
        self.open.set()
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
        self.server.open.wait(LIMIT_S)
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
    with contextlib.closing(http.client.HTTPConnection(host, port, timeout=LIMIT_S)) as connection:
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


@pytest.mark.parametrize("proxy_program", ["nginx"], indirect=True)
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


@pytest.mark.parametrize("proxy_program", ["caddy"], indirect=True)
def test_caddy_has_no_module_that_bounds_a_rate_as_its_file_says(proxy_program: tuple[str, Path]) -> None:
    listed = subprocess.run([proxy_program[1], "list-modules"], capture_output=True, text=True, check=True).stdout
    assert "http.handlers.request_body" in listed and "rate_limit" not in listed
    text = (PROXY / "Caddyfile").read_text().replace("\n# ", " ")
    assert "Requests a second and connections of an address are not" in text


# What bounds requests at a time, fitted to three, and what the others are answered.
AT_A_TIME = {
    "nginx": ({"limit_conn connections 1024": "limit_conn connections 3"}, 429),
    "caddy": ({"unhealthy_request_count 2048": "unhealthy_request_count 3"}, 503),
}


def test_more_requests_at_a_time_than_the_bound_are_refused(
    keys: Path, proxy_program: tuple[str, Path], start_proxy: Callable[..., int], upstream: Upstream
) -> None:
    fitting, refused = AT_A_TIME[proxy_program[0]]
    port = start_proxy(**fitting)
    upstream.open.clear()
    with ThreadPoolExecutor(10) as threads:
        asked = [threads.submit(ask, keys, port, "POST", "/v1/fleet/pull-messages") for _ in range(10)]
        done, _ = wait(asked, timeout=5.0, return_when=FIRST_COMPLETED)
        time.sleep(1.0)
        assert {one.result()[0] for one in asked if one.done()} == {refused} and done
        assert len(upstream.paths) <= 3
        upstream.open.set()
    assert sum(one.result()[0] == 200 for one in asked) == len(upstream.paths) == 3
    assert ask(keys, port, "GET", "/health")[0] == 200


SLOW = {
    "nginx": {
        "client_header_timeout 30s": "client_header_timeout 1s",
        "client_body_timeout 60s": "client_body_timeout 1s",
    },
    "caddy": {"read_header 30s": "read_header 1s", "read_body 5m": "read_body 1s"},
}
BEGUN = {
    "a header": b"POST /v1/fleet/push-object HTTP/1.1\r\nHost: localhost\r\nX-A: ",
    "a body": b"POST /v1/fleet/push-object HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nbegun",
}


@pytest.mark.parametrize("part", BEGUN)
def test_who_never_ends_what_he_began_is_cut_off(
    part: str, keys: Path, proxy_program: tuple[str, Path], start_proxy: Callable[..., int]
) -> None:
    port = start_proxy(**SLOW[proxy_program[0]])
    trust = ssl.create_default_context(cafile=str(keys / "ca.crt"))
    with (
        socket.create_connection(("127.0.0.1", port), timeout=15) as plain,
        trust.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        connection.sendall(BEGUN[part])
        began_s = time.monotonic()
        while connection.recv(4096):  # an answer that tells, or none
            pass
    assert time.monotonic() - began_s < 10.0


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
