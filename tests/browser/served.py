"""``hypergpu dashboard`` as its own process, and a page that is watched for what it may not do."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from hypergpu_fl.children import free_port

if TYPE_CHECKING:
    from playwright.sync_api import Page

HOSTILE = [
    "node-0",
    "<script>alert(1)</script><img src=x onerror=alert(2)>",
    "\u202eelddim \U0001f600",
    "n" * 10_000,
    "node-10",
    "node-9",
]


class Server:
    """``hypergpu dashboard`` over a folder of runs; it can be ended and started again on its port."""

    def __init__(self, root: Path) -> None:
        self.root, self.port = root, free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> None:
        code = "from hypergpu_fl.cli import main; main()"
        words = ["dashboard", "--port", str(self.port), "--runs", str(self.root)]
        log = (self.root / ".dashboard.log").open("ab")
        with log:
            self._process = subprocess.Popen([sys.executable, "-c", code, *words], stdout=log, stderr=log)
        for _ in range(300):
            try:
                with urllib.request.urlopen(f"{self.url}api/runs", timeout=1):
                    return
            except OSError:
                time.sleep(0.1)
        raise AssertionError((self.root / ".dashboard.log").read_text())

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=20)
        self._process = None


class Watched:
    """A page, and everything it did that it may not: errors, violations of its policy, requests elsewhere."""

    def __init__(self, page: Page, server: Server) -> None:
        self.page, self.wrong = page, list[str]()
        self.expected = list[str]()  # parts of messages that a test brings about itself
        page.on("console", lambda message: self._note(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self._note(f"error: {error}"))
        page.on("dialog", lambda dialog: self._note(f"dialog: {dialog.message}"))
        page.on("request", lambda request: self._note(request.url) if not request.url.startswith(server.url) else None)

    def _note(self, text: str) -> None:
        if not any(part in text for part in self.expected):
            self.wrong.append(text)
