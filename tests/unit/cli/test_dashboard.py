"""``hypergpu dashboard``: the link that it prints leads in, on this machine and with a token elsewhere."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from seen_runs import SeenRun

from hypergpu_fl import cli
from hypergpu_fl.cli.dashboard import LOG, beside
from hypergpu_fl.errors import UsageError


def answered(url: str, *, within_s: float = 30.0) -> str:
    give_up_s = time.monotonic() + within_s
    while True:
        try:
            with urllib.request.build_opener(urllib.request.HTTPCookieProcessor()).open(url, timeout=5) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError:
            raise
        except OSError:
            if time.monotonic() > give_up_s:
                raise
            time.sleep(0.1)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run = SeenRun(tmp_path / "runs" / "demo", ["node-0"])
    run.round(loss=1.0, accuracy=0.5)
    run.close()
    return run.folder


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_the_printed_link_leads_in_and_ctrl_c_ends_it(run: Path, host: str) -> None:
    code = "from hypergpu_fl.cli import main; main()"
    words = ["dashboard", "--port", "0", "--host", host]
    environ = os.environ | {"HYPERGPU_RUNS": str(run.parent), "PYTHONUNBUFFERED": "1"}
    page = subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.PIPE, text=True, env=environ)
    assert page.stdout is not None
    try:
        said = page.stdout.readline()
        link = re.search(r"http://\S+", said)
        assert link is not None, said
        assert ("?token=" in link[0]) == (host == "0.0.0.0")
        assert "<title>HyperGPU</title>" in answered(link[0])
        if host == "0.0.0.0":
            with pytest.raises(urllib.error.HTTPError, match="401"):
                answered(f"{link[0].partition('?')[0]}api/runs")
    finally:
        page.send_signal(signal.SIGINT)
        page.wait(timeout=20)
        page.stdout.close()


@pytest.mark.parametrize("words", [["--port", "-1"], ["--port", "x"], ["--nope"]])
def test_bad_usage_is_told(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.invoke(["dashboard", *words]) == 2
    assert "error: " in capsys.readouterr().err


def test_a_token_that_can_be_guessed_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HYPERGPU_DASHBOARD_TOKEN", "short")
    assert cli.invoke(["dashboard", "--port", "0"]) == 2
    assert "short" not in capsys.readouterr().err.replace("HYPERGPU_DASHBOARD_TOKEN", "")


def test_a_token_of_the_dotenv_file_is_read_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("HYPERGPU_DASHBOARD_TOKEN=brief\n")
    assert cli.invoke(["dashboard", "--port", "0"]) == 2
    assert "has 5 letters" in capsys.readouterr().err


def test_a_page_beside_a_run_shows_it_and_ends_with_it(run: Path) -> None:
    with beside(run) as address:
        base, _, place = address.partition("#")
        assert place == "/run/demo/training"
        assert '"run": "demo"' in answered(f"{base}api/runs")
    with pytest.raises(OSError):
        answered(f"{base}api/runs", within_s=0.0)


def test_a_page_beside_a_run_is_announced_with_the_token_that_it_asks_for(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPERGPU_DASHBOARD_TOKEN", "correct horse & battery")
    with beside(run) as address:
        base, _, place = address.partition("#")
        assert place == "/run/demo/training"
        assert answered(base)
        site, _, query = base.partition("?")
        assert '"run": "demo"' in answered(f"{site}api/runs?{query}")
    log = (run / LOG).read_text()
    assert site in log and "correct" not in log, "the log beside the run holds no secret"
    monkeypatch.setenv("HYPERGPU_DASHBOARD_TOKEN", "short")
    with pytest.raises(UsageError, match="can be guessed"), beside(run):
        pass
