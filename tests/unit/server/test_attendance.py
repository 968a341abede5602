"""Whoever follows a run is told of nodes that come and go in mid-run."""

from __future__ import annotations

from collections.abc import Iterable

from loguru import logger

from hypergpu_fl.server.attendance import Attendance


def told(rounds: Iterable[tuple[dict[str, bool], set[str]]]) -> list[str]:
    said: list[str] = []
    sink = logger.add(said.append, format="{message}")
    attendance = Attendance()
    try:
        for online, unasked in rounds:
            attendance.closed(online, unasked=unasked)
    finally:
        logger.remove(sink)
    return said


def test_each_coming_and_going_is_told_once_and_those_of_the_first_round_are_not() -> None:
    rounds = ((True, None), (True, None), (True, True), (False, True), (False, True), (True, True))
    found = [{"node-0": True, "node-1": b} | ({} if c is None else {"node-10": c}) for b, c in rounds]
    assert told((online, set()) for online in found) == [
        "node-10 joined; 3 nodes connected\n",
        "node-1 left; 2 nodes connected\n",
        "node-1 came back; 3 nodes connected\n",
    ]


def test_an_excluded_node_has_not_left_and_one_that_a_resumed_run_sees_late_comes_back() -> None:
    here, away = {"node-0": True, "node-1": True}, {"node-0": True, "node-1": False}
    assert not told([(here, set()), (away, {"node-1"}), (away, {"node-1"}), (here, set())])
    assert told([(away, {"node-1"}), (here, set())]) == ["node-1 came back; 2 nodes connected\n"]
