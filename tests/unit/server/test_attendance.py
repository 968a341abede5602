"""Whoever follows a run is told of nodes that come and go in mid-run."""

from __future__ import annotations

from loguru import logger

from hypergpu_fl.server.attendance import Attendance


def test_each_coming_and_going_is_told_once_and_those_of_the_first_round_are_not() -> None:
    said: list[str] = []
    sink = logger.add(said.append, format="{message}")
    attendance = Attendance()
    try:
        for b, c in ((True, None), (True, None), (True, True), (False, True), (False, True), (True, True)):
            attendance.closed({"node-0": True, "node-1": b} | ({} if c is None else {"node-10": c}))
    finally:
        logger.remove(sink)
    assert said == [
        "node-10 joined; 3 nodes are connected\n",
        "node-1 left; 2 nodes are connected\n",
        "node-1 came back; 3 nodes are connected\n",
    ]
