"""Following a log file that grows and rotates."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypergpu_fl.cli.follow import Tail, worth_showing


@given(
    st.lists(st.tuples(st.sampled_from(["write", "half", "rotate", "read"]), st.text("ab ", max_size=5)), max_size=30)
)
def test_every_complete_line_is_read_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.mktemp("log") / "run.log"
    tail, written, seen, half = Tail(path), [], [], ""
    for number, (step, text) in enumerate(steps):
        if step == "read":
            seen += tail.lines()
        elif step == "rotate" and path.exists() and not half:
            # As loguru does it; a reader that never comes between two rotations would miss a file, so it comes here.
            seen += tail.lines()
            path.rename(path.with_suffix(f".{number}.log"))
        elif step in ("write", "half"):
            with path.open("a") as file:
                file.write(text if step == "half" else f"{text}\n")
            half += text
            if step == "write":
                written.append(half)
                half = ""
    seen += tail.lines()
    tail.close()
    assert seen == written


def test_a_resumed_run_shows_new_lines_only(tmp_path: Path) -> None:
    path = tmp_path / "run.log"
    path.write_text("old\n")
    tail = Tail(path)
    tail.skip()
    with path.open("a") as file:
        file.write("new\n")
    assert list(tail.lines()) == ["new"]
    tail.close()
    tail.close()


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("2026-01-01 00:00:00.000 | INFO     | hypergpu_fl.server.report:64 | round 1 | done", "round 1 | done"),
        ("2026-01-01 00:00:00.000 | INFO     | strategies.network_aware:1 | text", "text"),
        ("2026-01-01 00:00:00.000 | DEBUG    | hypergpu_fl.server.report:64 | fine", None),
        ("2026-01-01 00:00:00.000 | INFO     | web3:1 | chatter", None),
        ("2026-01-01 00:00:00.000 | WARNING  | web3:1 | slow node", "warning: slow node"),
        ("2026-01-01 00:00:00.000 | ERROR    | flwr:363 | Simulation raised an exception", None),
        ('  File "a.py", line 3, in main', None),
    ],
)
def test_people_see_our_records_and_all_warnings(line: str, shown: str | None) -> None:
    assert worth_showing(line) == shown
