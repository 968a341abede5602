"""``hypergpu watch``: a line a round where nobody looks, a live screen that leaves the terminal as it was."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console
from seen_runs import NOW_S, SeenRun

from hypergpu_fl import cli
from hypergpu_fl.cli.resuming import CHANGED
from hypergpu_fl.dashboard import words
from hypergpu_fl.dashboard.run_view import RunView
from hypergpu_fl.dashboard.screen import screen, sparkline
from hypergpu_fl.files import exclusive
from hypergpu_fl.runs import BOOKS_LOCK, COMMAND_LOCK

OTHER_PAGE, SAME_PAGE = "\x1b[?1049h", "\x1b[?1049l"
NAMES = ["node-0", "\x1b[2Jnode-1", "x" * 300, *(f"node-{number}" for number in range(3, 40))]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[SeenRun]:
    run = SeenRun(tmp_path / "runs" / "demo", NAMES, wanted=4, failing=2)
    for round in (1, 2, 3):
        run.round(loss=1 / round, accuracy=0.5 + round / 10)
    yield run
    run.close()


def test_a_line_a_round_is_printed_until_the_run_has_ended(run: SeenRun, capsys: pytest.CaptureFixture[str]) -> None:
    def go_on() -> None:
        time.sleep(0.7)
        run.round(loss=0.25, accuracy=0.9)
        run.finish()

    other = threading.Thread(target=go_on)
    other.start()
    assert cli.invoke(["watch", "demo"]) == 0
    other.join()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["1/4", "2/4", "3/4", "4/4"]
    assert lines[3].startswith("round   4/4  accuracy 0.9  loss 0.25  4 s  39/40 arrived  0 late  1 refused")


def test_each_round_is_an_object_as_json(run: SeenRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.invoke(["watch", "demo", "--once", "--format", "json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["round"] for row in rows] == [1, 2, 3] and rows[0]["metrics"] == {"accuracy": 0.6}


def test_a_run_that_failed_is_told_as_such(run: SeenRun, capsys: pytest.CaptureFixture[str]) -> None:
    run.finish(failure="no update counted")
    assert cli.invoke(["watch", "demo"]) == 1
    assert "no update counted" in capsys.readouterr().err


def test_a_run_that_broke_off_is_not_watched_for_ever(run: SeenRun, capsys: pytest.CaptureFixture[str]) -> None:
    (run.folder / BOOKS_LOCK).touch()
    log, long_ago_s = run.folder / "events.jsonl", time.time() - 60
    os.utime(log, (long_ago_s, long_ago_s))
    assert cli.invoke(["watch", "demo"]) == 1
    said = capsys.readouterr().err
    assert "broke off after 3 rounds" in said and "`hypergpu run --resume demo`" in said
    (run.folder / "config.json").write_text(json.dumps({"network": {"enable_simulation": False}}))
    assert cli.invoke(["watch", "demo"]) == 1
    assert "where it was submitted, `hypergpu attach demo` goes on with it" in capsys.readouterr().err


def test_a_run_that_was_stopped_is_told_as_such_with_the_way_on(
    run: SeenRun, capsys: pytest.CaptureFixture[str]
) -> None:
    (run.folder / "report.json").write_text(json.dumps({"status": "stopped", "failure": None, "rounds": 3}, indent=1))
    assert cli.invoke(["watch", "demo"]) == 1
    said = capsys.readouterr().err
    assert "was stopped after 3 rounds" in said and "`hypergpu run --resume demo`" in said


@pytest.mark.parametrize("reported", [False, True])
def test_a_run_is_starting_from_the_command_that_resumes_it_until_its_server_goes_on(
    run: SeenRun, reported: bool
) -> None:
    view = RunView(run.folder, clock=lambda: time.time() + 3600)
    if reported:
        run.finish()
    before = view.summary()["state"]
    assert before == ("completed" if reported else "silent")
    resumed, now_s = run.folder / CHANGED, time.time() + 1
    resumed.write_text("{}")
    os.utime(resumed, (now_s, now_s))
    assert view.summary()["state"] == before, "no command is at work on it"
    with exclusive(run.folder / COMMAND_LOCK, AssertionError("free")):
        assert view.summary()["state"] == "starting"
        os.utime(run.folder / "events.jsonl", (now_s + 3599, now_s + 3599))
        assert view.summary()["state"] == "running"


def test_a_run_whose_command_is_taking_it_up_again_is_watched_on(run: SeenRun) -> None:
    (run.folder / BOOKS_LOCK).touch()
    view = RunView(run.folder, clock=lambda: time.time() + 60)
    assert view.summary()["state"] == "broken off"
    with exclusive(run.folder / COMMAND_LOCK, AssertionError("free")):
        assert view.summary()["state"] == "running"


def test_long_notes_are_wrapped_and_leave_room_for_the_nodes(run: SeenRun) -> None:
    view = RunView(run.folder, clock=lambda: NOW_S)
    view.poll()
    note = "4 of 8 nodes are asked in a round; in its first round every node says who it is, and at the end it rests"
    for lines, whole in ((40, True), (12, False)):
        console = Console(width=60, height=lines, force_terminal=True, color_system=None)
        shown = screen(view.summary(), view.rounds, view.nodes(), width=58, height=lines, messages=["old " * 40, note])
        with console.capture() as capture:
            console.print(shown)
        said = " ".join(capture.get().split())
        assert (note in said) is whole
        assert "4 of 8 nodes are asked" in said and "sound" in said, "at least one node has room"
        assert len(capture.get().rstrip().split("\n")) <= lines


def test_what_is_left_is_told_in_whole_units_and_a_tiny_share_without_an_exponent() -> None:
    assert [words.left(value) for value in (415.2, 45.4, 7400.0, 119.0)] == ["7 min", "45 s", "2 h", "119 s"]
    assert [words.share(value) for value in (0.12345, 3.86e-8, 0.0)] == ["12.3 %", "<0.001 %", "0 %"]


def test_a_run_that_is_not_there_is_bad_usage(run: SeenRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.invoke(["watch", "dem"]) == 2
    assert "did you mean" in capsys.readouterr().err


@pytest.mark.parametrize("columns", [40, 80, 100, 200])
@pytest.mark.parametrize("lines", [12, 50])
def test_the_screen_fits_the_terminal_and_shows_no_control_character(run: SeenRun, columns: int, lines: int) -> None:
    view = RunView(run.folder, clock=lambda: NOW_S)
    view.poll()
    console = Console(width=columns, height=lines, force_terminal=True, color_system=None)
    shown = screen(view.summary(), view.rounds, view.nodes(), width=columns - 2, height=lines)
    with console.capture() as capture:
        console.print(shown)
    text = capture.get().rstrip("\n").split("\n")
    assert len(text) <= lines
    assert all(len(line) <= columns for line in text)
    assert "\x1b" not in capture.get()
    assert "round 3/4" in capture.get()
    if columns >= 80 and lines == 50:
        assert "excluded" in capture.get() and "Mbit/s" in capture.get() and "MON" in capture.get()


def test_a_sparkline_goes_from_the_least_to_the_greatest_value() -> None:
    assert sparkline([0.0, 0.5, None, 1.0], 10) == "▁▅ █"
    assert sparkline(list(map(float, range(100))), 4) == "▁▃▆█"
    assert sparkline([None], 3) == sparkline([], 3) == ""
    assert sparkline([2.0, 2.0], 3) == "▁▁"


def settings_of(terminal: int) -> str:
    return subprocess.run(["stty", "-a"], stdin=terminal, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("after_s", [0.5, 2.0])
def test_ctrl_c_leaves_the_terminal_as_it_was(run: SeenRun, after_s: float) -> None:
    us, theirs = pty.openpty()
    before = settings_of(theirs)
    watching = subprocess.Popen(
        [sys.executable, "-c", "from hypergpu_fl.cli import main; main()", "watch", "demo"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a shell's background job would ignore it
        env=os.environ | {"TERM": "xterm-256color", "HYPERGPU_RUNS": str(run.folder.parent)},
    )
    said, deadline = "", time.monotonic() + 30
    while OTHER_PAGE not in said and time.monotonic() < deadline:
        if select.select([us], [], [], 0.1)[0]:
            said += os.read(us, 65536).decode(errors="replace")
    time.sleep(after_s)
    watching.send_signal(signal.SIGINT)
    deadline = time.monotonic() + 30
    while (watching.poll() is None and time.monotonic() < deadline) or select.select([us], [], [], 0.1)[0]:
        if select.select([us], [], [], 0.1)[0]:
            said += os.read(us, 65536).decode(errors="replace")
    watching.kill()
    assert watching.wait() == 130
    assert said.count(OTHER_PAGE) == said.count(SAME_PAGE) == 1
    assert said.rindex("\x1b[?25h") > said.rindex("\x1b[?25l"), "the cursor is shown again"
    assert "the run is left alone" in said[said.rindex(SAME_PAGE) :]
    assert "error:" not in said and "remedy:" not in said, "nothing failed"
    assert settings_of(theirs) == before
    assert re.search(r"round 3/4", said)
    os.close(us)
    os.close(theirs)
