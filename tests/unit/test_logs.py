"""Logs hold what happened and no secret, in every file that rotation leaves."""

from __future__ import annotations

import logging
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loguru import logger

from hypergpu_fl import logs, redaction
from hypergpu_fl.config import System

KEY = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"
PASSWORD = 'correct "horse" battery'
MNEMONIC = "legal winner thank year wave sausage worth useful legal winner thank yellow"
TX = "0x9fc76417374aa880d4449a1f7f31ec597f00b1f6f3dd2d66f4c9c6c445836d8b"
URLS = {
    "https://alice:hunter22@rpc.example/path": "https://***@rpc.example/path",
    "https://monad.g.alchemy.com/v2/abcdEFGH1234abcdEFGH1234": "https://monad.g.alchemy.com/v2/***",
    "https://rpc.ankr.com/monad/0123456789abcdef0123456789abcdef": "https://rpc.ankr.com/monad/***",
    "wss://rpc.example/?apikey=s3cr3ts3cr3t&x=1": "wss://rpc.example/?apikey=***&x=1",
    "https://rpc.example/key?x=1&token=s3cr3ts3cr3t": "https://rpc.example/key?x=1&token=***",
    f"https://monadscan.com/tx/{TX}": f"https://monadscan.com/tx/{TX}",
    "https://flower.ai/docs/framework/1.41/en/ref-exit-codes/700.html": (
        "https://flower.ai/docs/framework/1.41/en/ref-exit-codes/700.html"
    ),
    "http://127.0.0.1:8545": "http://127.0.0.1:8545",
}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    root, flower = logging.getLogger(), logging.getLogger("flwr")
    before = (root.handlers[:], root.level, flower.handlers[:], flower.level, flower.propagate)
    monkeypatch.setenv("HYPERGPU_COORDINATOR_KEY", KEY)
    monkeypatch.setenv("HYPERGPU_KEYSTORE_PASSWORD", PASSWORD)
    yield
    logger.remove()
    logging.captureWarnings(False)
    root.handlers[:], flower.handlers[:] = before[0], before[2]
    root.setLevel(before[1])
    flower.setLevel(before[3])
    flower.propagate = before[4]


def written(folder: Path) -> str:
    logger.remove()
    return "\n".join(path.read_text() for path in sorted(folder.iterdir()) if path.is_file())


def test_no_secret_reaches_any_log_file_or_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    redaction.register(MNEMONIC)
    logs.configure(System(log_rotation_mb=0.02, log_retention=100, log_level="TRACE"), tmp_path)
    forms = [KEY, f"0x{KEY}", KEY.upper(), f"0X{KEY.upper()}", str(int(KEY, 16)), repr(bytes.fromhex(KEY))]
    for turn in range(40):
        for form in [*forms, PASSWORD, repr(PASSWORD), MNEMONIC, MNEMONIC.upper(), *URLS]:
            logger.info("turn {} uses {}", turn, form)
            logging.getLogger("web3.providers").warning("posting to %s", form)
            logging.getLogger("flwr").info("config %s", {"k": form})
        try:
            secret_in_frame = KEY
            raise ValueError(f"cannot sign with {secret_in_frame} at {next(iter(URLS))}")
        except ValueError:
            logger.exception("signing failed")
            logging.getLogger("flwr").exception("Simulation raised an exception")
        logger.info("committed {}", TX)
    text = written(tmp_path) + capsys.readouterr().err
    assert len(list(tmp_path.iterdir())) > 5, "rotation took place"
    lowered = text.lower()
    for secret in (*forms, MNEMONIC, PASSWORD, "battery", "hunter22", "s3cr3ts3cr3t", "abcdEFGH1234"):
        assert secret.lower() not in lowered
    assert "cannot sign with ***" in text
    assert text.count(TX) >= 80, "hashes are public and stay readable"
    assert 'raise ValueError(f"cannot sign with' in text, "tracebacks stay useful"


def test_rotated_files_beyond_the_retention_are_removed(tmp_path: Path) -> None:
    logs.configure(System(log_rotation_mb=0.001, log_retention=3), tmp_path)
    for turn in range(200):
        logger.info("line {} of a log that rotates often", turn)
    logger.remove()
    assert (tmp_path / "run.log").exists()
    assert 2 <= len(list(tmp_path.iterdir())) <= 4


def test_flower_and_standard_library_records_are_among_ours(tmp_path: Path) -> None:
    logs.configure(System(), tmp_path)
    logging.getLogger("flwr").info("from Flower")
    logging.getLogger("some.library").warning("from a library with %d value", 1)
    logging.getLogger("some.library").debug("too fine")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("from warnings", UserWarning, stacklevel=1)
    records = [entry for line in written(tmp_path).splitlines() if (entry := logs.parse(line))]
    assert [(r["module"].split(":")[0], r["level"], r["message"]) for r in records[:2]] == [
        ("flwr", "INFO", "from Flower"),
        ("some.library", "WARNING", "from a library with 1 value"),
    ]
    assert "from warnings" in records[2]["message"]
    assert len(records) == 3


def test_the_level_holds_for_all_sinks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(System(log_level="WARNING"), tmp_path)
    logger.info("quiet")
    logger.warning("loud")
    text = written(tmp_path)
    assert "quiet" not in text + capsys.readouterr().err
    assert "loud" in text


@pytest.mark.parametrize(
    ("terminal", "no_color", "coloured"), [(True, "", True), (True, "1", False), (False, "", False)]
)
def test_colour_is_for_terminals_only_and_can_be_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], terminal: bool, no_color: str, coloured: bool
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    # what pytest captures is never a terminal
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    logs.configure(System())
    logger.error("red <bold> {braces} \\<blue>")
    err = capsys.readouterr().err
    assert ("\x1b[" in err) is coloured
    assert "red <bold> {braces} \\<blue>" in err


@pytest.mark.parametrize(
    "silence",
    [
        logger.remove,
        lambda: logging.disable(logging.CRITICAL),
        lambda: logging.basicConfig(force=True),
        lambda: logging.getLogger("flwr").setLevel(logging.CRITICAL),
        lambda: None,
    ],
)
def test_a_log_that_the_users_code_silenced_goes_on_and_their_own_stays(
    silence: Callable[[], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure(System(), tmp_path)
    silence()
    logger.add(tmp_path / "own" / "own.txt", format="{message}")
    logs.restore(System(), tmp_path)
    logger.info("round 1/3")
    logging.getLogger("flwr").warning("a node is gone")
    shown, kept, own = capsys.readouterr().err, written(tmp_path), (tmp_path / "own" / "own.txt").read_text()
    for said in ("round 1/3", "a node is gone"):
        assert [text.count(said) for text in (shown, kept, own)] == [1, 1, 1]


def test_an_empty_log_file_name_means_console_only(tmp_path: Path) -> None:
    logs.configure(System(log_file=""), tmp_path)
    logger.info("hello")
    assert written(tmp_path) == ""


@pytest.mark.parametrize(("url", "shown"), URLS.items())
def test_urls_lose_credentials_and_keep_the_rest(url: str, shown: str) -> None:
    assert redaction.redact(f"<{url}> and '{url}'") == f"<{shown}> and '{shown}'"
    assert redaction.has_credentials(url) is (url != shown)


@given(st.text(max_size=40), st.text(max_size=40))
def test_redaction_is_idempotent_and_removes_what_was_registered(before: str, after: str) -> None:
    redaction.register(KEY)
    once = redaction.redact(f"{before} {KEY} {after}")
    assert KEY not in once
    assert redaction.redact(once) == once


@given(st.text(alphabet=st.characters(exclude_characters=":"), max_size=80))
def test_text_without_secrets_and_urls_is_left_alone(text: str) -> None:
    assert redaction.redact(text) == text


def test_who_follows_a_run_sees_no_tree_of_flowers_while_the_file_keeps_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure(System(), tmp_path)
    logging.getLogger("flwr").info("Aggregated MetricRecord: {}")
    logging.getLogger("flwr").warning("a node is gone")
    logger.info("round 1/3")
    shown = capsys.readouterr().err
    assert "round 1/3" in shown and "a node is gone" in shown
    assert "MetricRecord" not in shown and "MetricRecord" in written(tmp_path)
    logs.configure(System(log_level="DEBUG"))
    logging.getLogger("flwr").info("Aggregated MetricRecord: {}")
    assert "MetricRecord" in capsys.readouterr().err


def test_what_a_process_apart_logs_is_said_as_commands_speak(tmp_path: Path) -> None:
    script = tmp_path / "apart.py"
    script.write_text(_APART)
    said = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True, timeout=120).stderr
    assert said == "trying\nwarning: one file is broken\n"


_APART = """
from hypergpu_fl.cli.apart import apart
from loguru import logger

def work():
    logger.debug("unseen")
    logger.info("trying")
    logger.warning("one file is broken")

if __name__ == "__main__":
    apart(work, doing="trying")
"""
