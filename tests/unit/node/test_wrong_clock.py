"""A node that is refused because of its clock is told so, and no other node is."""

from __future__ import annotations

from email.utils import formatdate
from types import SimpleNamespace

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypergpu_fl.node.wrong_clock import Telling, wrong

NOW_S = 1.9e9


@given(st.floats(-1e7, 1e7))
def test_a_clock_that_flower_refuses_is_wrong_and_one_that_is_right_to_seconds_is_not(ahead_s: float) -> None:
    said = wrong(formatdate(NOW_S, usegmt=True), NOW_S + ahead_s)
    if ahead_s >= 5 or ahead_s <= -305:
        assert f"{abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} the SuperLink's" in said
    if abs(ahead_s) <= 2:
        assert not said


@pytest.mark.parametrize("date", ["", "today", "Thu, 99 Jan 2026 00:00:00 GMT", "\udc80", "1"])
def test_an_answer_that_tells_no_time_tells_nothing_of_a_clock(date: str) -> None:
    assert wrong(date, NOW_S) == ""


@pytest.mark.parametrize(("status", "ahead_s", "told"), [(401, 3600, True), (401, 0, False), (200, 3600, False)])
def test_only_a_refusal_is_explained(status: int, ahead_s: float, told: bool, caplog: pytest.LogCaptureFixture) -> None:
    answer = httpx.Response(status, headers={"date": formatdate(NOW_S, usegmt=True)})
    signer = SimpleNamespace(intercept=lambda context, call_next: call_next(context))
    assert Telling(signer, lambda: NOW_S + ahead_s).intercept(None, lambda context: answer) is answer
    assert ("its clock is 3600 s ahead of the SuperLink's; let NTP set it" in caplog.text) == told
