"""A run that is to be sealed on a real chain asks it before anything is started."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from hypergpu_fl.cli import preflight
from hypergpu_fl.config import load

Command = Callable[..., tuple[int, str, str]]
KEY = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"
CONTRACT = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"


@contextmanager
def chain(**answers: object) -> Iterator[str]:
    """An endpoint of chain 143 on which everybody is rich, unless ``answers`` say otherwise."""

    class Endpoint(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            call = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            given = {"eth_chainId": hex(143), "eth_getBalance": hex(10**20), "eth_getCode": "0x"} | answers
            body = json.dumps({"jsonrpc": "2.0", "id": call["id"], "result": given[call["method"]]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Endpoint) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def settings(url: str, **more: object) -> dict[str, object]:
    return {
        f"blockchain.{name}": value for name, value in ({"kind": "rpc", "rpc_url": url, "chain_id": 143} | more).items()
    }


def refused(hypergpu: Command, folder: Path, url: str, **more: object) -> str:
    """What the command says, which must have started nothing."""
    code, out, err = hypergpu("run", *(f"--set={name}={value}" for name, value in settings(url, **more).items()))
    assert code and not out and "remedy: " in err and "Traceback" not in err
    assert not (folder / "runs").exists()
    return err


def test_an_endpoint_that_does_not_answer_is_told_at_once(
    hypergpu: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPERGPU_COORDINATOR_KEY", KEY)
    assert "127.0.0.1:9 does not answer" in refused(hypergpu, tmp_path, "http://127.0.0.1:9", contract=CONTRACT)


def test_one_that_hangs_is_waited_for_a_few_seconds(
    hypergpu: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPERGPU_COORDINATOR_KEY", KEY)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began_s = time.monotonic()
        err = refused(hypergpu, tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert "does not answer" in err and "blockchain.enabled=false" in err and time.monotonic() - began_s < 20


@pytest.mark.parametrize(
    ("answers", "more", "cause"),
    [
        ({"eth_chainId": hex(10143)}, {}, "serves chain 10143"),
        ({"eth_getBalance": "0x0"}, {}, "holds 0 wei"),
        ({"eth_getBalance": hex(10**15)}, {"budget_wei": 10**15}, "the session's rewards take 20000000000000000"),
        ({}, {"contract": CONTRACT}, "holds no code"),
    ],
)
def test_a_chain_that_is_not_what_is_configured_is_told(
    answers: dict[str, object],
    more: dict[str, object],
    cause: str,
    hypergpu: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HYPERGPU_COORDINATOR_KEY", KEY)
    with chain(**answers) as url:
        assert cause in refused(hypergpu, tmp_path, url, **more)


def test_so_is_a_missing_key(hypergpu: Command, tmp_path: Path) -> None:
    with chain() as url:
        assert "no coordinator key is given" in refused(hypergpu, tmp_path, url)


def test_a_chain_that_is_as_configured_and_a_resumed_run_pass(
    hypergpu: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPERGPU_COORDINATOR_KEY", KEY)
    with chain() as url:
        preflight.ask_chain(load(overrides=settings(url)).config)
    gone = settings("http://127.0.0.1:9", contract=CONTRACT)
    preflight.ask_chain(load(overrides={**gone, "system.resume": True}).config)
    preflight.ask_chain(load(overrides={**gone, "blockchain.enabled": False}).config)
