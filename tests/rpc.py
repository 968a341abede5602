"""A JSON-RPC endpoint that misbehaves on demand, in front of a real one, and a fresh funded key on it."""

from __future__ import annotations

import json
import secrets
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from hypergpu_fl.chain.signer import KeySigner


def ask(url: str, method: str, *params: Any) -> Any:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response).get("result")


def funded_signer(url: str, balance: int = 10**21) -> KeySigner:
    signer = KeySigner(secrets.token_bytes(32))
    ask(url, "anvil_setBalance", signer.address, hex(balance))
    return signer


class Proxy:
    """Forwards to a real endpoint, as `mode` says: pass, down, hang, garbage, forget, stale."""

    def __init__(self, upstream: str, url: str) -> None:
        self.upstream = upstream
        self.url = url
        self.calls = 0
        self.broadcasts: list[str] = []
        self.lies: dict[str, Callable[[dict[str, Any]], object]] = {}  # method -> what it makes of the true answer
        self._mode = "pass"
        self._frozen = 0
        self._garbage = 0
        self.released = threading.Event()

    @property
    def mode(self) -> str:
        return self._mode

    @mode.setter
    def mode(self, mode: str) -> None:
        if mode == "stale":
            self._frozen = int(ask(self.upstream, "eth_blockNumber"), 16)
        (self.released.clear if mode == "hang" else self.released.set)()
        self._mode = mode

    def answer(self, request: dict[str, Any]) -> bytes | None:
        method, params = request["method"], request["params"]
        self.calls += 1
        if method == "eth_sendRawTransaction":
            self.broadcasts.append(params[0])
        if self.mode == "down":
            return None
        if self.mode == "hang":
            self.released.wait(10)
            return None
        if self.mode == "garbage":
            self._garbage += 1
            number = request["id"]
            choices = [
                b"<html>busy</html>", b"", b"[" * 5000, b"null", json.dumps({"id": number, "result": {}}).encode(),
                json.dumps({"id": number, "result": "0xzz"}).encode(), json.dumps({"id": number}).encode(),
                json.dumps({"id": number, "error": {"code": -32000, "message": "?"}}).encode(),
                json.dumps({"id": number + 1, "result": "0x1"}).encode(),
                json.dumps({"id": number, "result": -1}).encode(),
            ]  # fmt: skip
            return choices[self._garbage % len(choices)]
        if self.mode == "forget" and method == "eth_sendRawTransaction":
            return json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": "0x" + "0" * 64}).encode()
        if self.mode == "forget" and method == "eth_getTransactionReceipt":
            return json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": None}).encode()
        if self.mode == "stale":
            frozen = hex(self._frozen)
            params = [frozen if p == "latest" else hex(self._frozen - 2) if p == "finalized" else p for p in params]
        result = self._forward({**request, "params": params})
        receipt = result.get("result") if method == "eth_getTransactionReceipt" else None
        if self.mode == "stale" and receipt and int(receipt["blockNumber"], 16) > self._frozen:
            result["result"] = None
        if method in self.lies:
            self.lies[method](result)
        return json.dumps(result).encode()

    def _forward(self, request: dict[str, Any]) -> dict[str, Any]:
        body = json.dumps(request).encode()
        forwarded = urllib.request.Request(self.upstream, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(forwarded, timeout=10) as response:
            answer: dict[str, Any] = json.load(response)
        return answer


@contextmanager
def proxied(upstream: str) -> Iterator[Proxy]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            answer = proxy.answer(request)
            if answer is None:
                self.close_connection = True
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    proxy = Proxy(upstream, f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield proxy
    finally:
        proxy.mode = "pass"
        server.shutdown()
        thread.join()
        server.server_close()


class ScriptedNode:
    """An endpoint that answers each method with what it is told to, and notes how it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, dict[str, Any]] = {}  # by method; any other method is not found
        self.asked: list[tuple[str, str]] = []  # path, and what a proxy was told for a password
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def scripted() -> Iterator[ScriptedNode]:
    node = ScriptedNode()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            node.asked.append((self.path, self.headers.get("Proxy-Authorization", "")))
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            absent = {"error": {"code": -32601, "message": "Method not found"}}
            answer = node.answers.get(request["method"], absent)
            body = json.dumps({"jsonrpc": "2.0", "id": request["id"], **answer}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        node.port = server.server_port
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield node
        server.shutdown()
