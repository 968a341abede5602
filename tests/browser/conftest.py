"""A real Chromium on the page of runs that are going on."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from seen_runs import SeenRun

from hypergpu_fl.cli.superlink import free_port

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HERE = Path(__file__).parent
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


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    binary = shutil.which("chromium") or shutil.which("chromium-browser")
    if binary is None:
        pytest.skip("no chromium: apt-get install chromium")
    api = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install playwright")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=binary, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def axe() -> str:
    """The text of axe-core, which judges a page's accessibility."""
    with (HERE / "package.json").open() as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        script = HERE / "node_modules" / "axe-core" / "axe.min.js"
        if not script.is_file():
            npm = shutil.which("npm")
            if npm is None:
                pytest.skip("no npm to install axe-core")
            subprocess.run([npm, "ci", "--no-audit", "--no-fund"], cwd=HERE, check=True, capture_output=True)
    return script.read_text()


@pytest.fixture
def going_on(tmp_path: Path) -> Iterator[SeenRun]:
    """Six nodes, some with names that want to be more than text; twelve of twenty rounds are over."""
    run = SeenRun(tmp_path / "runs" / "demo", HOSTILE, failing=5)
    for number in range(1, 13):
        run.round(loss=2.1 / number**0.8, accuracy=1 - 0.7 / number**0.8)
    yield run
    run.close()


@pytest.fixture
def server(going_on: SeenRun) -> Iterator[Server]:
    server = Server(going_on.folder.parent)
    server.start()
    yield server
    server.stop()


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


@pytest.fixture
def watched(chromium: Browser, server: Server) -> Iterator[Any]:
    context = chromium.new_context(viewport={"width": 1440, "height": 900})
    watched = Watched(context.new_page(), server)
    yield watched
    context.close()
    assert watched.wrong == []
