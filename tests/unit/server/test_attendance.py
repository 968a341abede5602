"""Whoever follows a run is told of nodes that come and go in mid-run."""

from __future__ import annotations

from collections.abc import Iterable

from loguru import logger

from hypergpu_fl.server.attendance import Attendance


def told(rounds: Iterable[dict[str, bool]]) -> list[str]:
    said: list[str] = []
    sink = logger.add(said.append, format="{message}")
    attendance = Attendance()
    try:
        for connected in rounds:
            attendance.closed(connected)
    finally:
        logger.remove(sink)
    return said


def test_each_coming_and_going_is_told_once_and_those_of_the_first_round_are_not() -> None:
    rounds = ((True, None), (True, None), (True, True), (False, True), (False, True), (True, True))
    found = [{"node-0": True, "node-1": b} | ({} if c is None else {"node-10": c}) for b, c in rounds]
    assert told(found) == [
        "node-10 joined; 3 nodes connected\n",
        "node-1 left; 2 nodes connected\n",
        "node-1 came back; 3 nodes connected\n",
    ]


def test_a_node_that_a_resumed_run_sees_late_comes_back() -> None:
    assert told([{"node-0": True, "node-1": False}, {"node-0": True, "node-1": True}]) == [
        "node-1 came back; 2 nodes connected\n"
    ]
