"""An exchange that takes long says how far it has got."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.arrivals.progress import EVERY_S, Progress


@given(st.lists(st.floats(0.0, 30.0), max_size=50))
def test_it_is_said_no_more_often_than_every_few_seconds(waits_s: list[float]) -> None:
    now_s, said_s = 0.0, []

    class Noted(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said_s.append(now_s)

    handler = Noted()
    log = logging.getLogger("strategies.arrivals.progress")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        progress = Progress("%d of %d have come", 50, now_s=lambda: now_s)
        for count, wait_s in enumerate(waits_s):
            now_s += wait_s
            progress.reached(count)
    finally:
        log.removeHandler(handler)
    assert all(later - earlier >= EVERY_S for earlier, later in zip([0.0, *said_s], said_s, strict=False))
    assert len(said_s) >= sum(wait_s >= EVERY_S for wait_s in waits_s)


def test_it_says_how_many_of_how_many(caplog: pytest.LogCaptureFixture) -> None:
    clock = iter([0.0, 6.0, 6.0])
    with caplog.at_level(logging.INFO):
        Progress("%d of %d nodes have said who they are", 100_000, now_s=lambda: next(clock)).reached(512)
    assert caplog.messages == ["512 of 100000 nodes have said who they are"]
