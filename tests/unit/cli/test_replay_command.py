"""`hypergpu replay` on a log of its own, without books."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hypergpu_fl.cli import invoke
from strategies import lineup
from strategies.event_log import EventLog
from strategies.planning import Compression
from strategies.round.events import Ended, Event, Joined, Published, RoundDue
from strategies.round.state import State
from strategies.round.step import step
from strategies.settings import Settings

RULES = lineup.rules(
    "network_aware", Settings(1, mode="sync", quota=0.8), model_values=10, levels=[Compression("raw", 1.0)]
)


def test_rules_that_changed_between_two_rounds_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, state = tmp_path / "demo" / "events.jsonl", State(RULES)
    path.parent.mkdir()

    def tell(log: EventLog, *events: Event) -> None:
        for event in events:
            log.append(event, step(state, event)[1])

    log = EventLog(path, RULES)
    tell(log, Published(0.0, "00" * 32, 1.0, ()), Joined(0.0, "node-0", 5), RoundDue(1.0, 1), Ended(2.0))
    mark = log.sync()
    log.close()
    state.rules = replace(RULES, settings=replace(RULES.settings, quota=0.5))
    again = EventLog(path, state.rules, after=mark)
    tell(again, RoundDue(3.0, 2), Ended(4.0))
    again.close()

    assert invoke(["replay", str(path.parent)]) == 0
    assert "from round 2 on other rules: quota 0.8 -> 0.5" in capsys.readouterr().out.splitlines()
    assert invoke(["replay", str(path.parent), "--format", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["changed_rules"] == [{"from_round": 2, "rule": "quota", "before": 0.8, "after": 0.5}]
