"""What a ServerApp's client meets: an HTTP server that gives the SuperLink's answers, or fails as one that is away."""

from __future__ import annotations

from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Self


class AwaySuperLink(ThreadingHTTPServer):
    """``answer`` gives status and body for the name of a request and how often it has come; ``heard`` keeps names."""

    def __init__(self, answer: Callable[[str, int], tuple[int, bytes]]) -> None:
        super().__init__(("127.0.0.1", 0), _Request)
        self.answer, self.heard = answer, list[str]()
        self.address = f"127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> Self:
        Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *failure: object) -> None:
        self.shutdown()
        self.server_close()


class _Request(BaseHTTPRequestHandler):
    server: AwaySuperLink

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        name = self.path.rpartition("/")[2]
        self.server.heard.append(name)
        code, body = self.server.answer(name, self.server.heard.count(name))
        self.send_response(code)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""
