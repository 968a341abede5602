"""A real Chromium on the page of runs that are going on."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from interfaces import interfaces
from seen_runs import SeenRun
from served import HOSTILE, Server, Watched

if TYPE_CHECKING:
    from playwright.sync_api import Browser

HERE = Path(__file__).parent


@pytest.fixture(scope="module")  # Playwright keeps an event loop running on its thread, which others may not find
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
    for round in range(1, 13):
        run.round(loss=2.1 / round**0.8, accuracy=1 - 0.7 / round**0.8)
    yield run
    run.close()


@pytest.fixture
def server(going_on: SeenRun) -> Iterator[Server]:
    server = Server(going_on.folder.parent)
    server.start()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def _unchanged_interfaces() -> Iterator[None]:
    with interfaces():
        yield


@pytest.fixture
def watched(chromium: Browser, server: Server) -> Iterator[Watched]:
    context = chromium.new_context(viewport={"width": 1440, "height": 900})
    watched = Watched(context.new_page(), server)
    yield watched
    context.close()
    assert watched.wrong == []
