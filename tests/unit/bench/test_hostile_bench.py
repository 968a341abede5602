"""`hypergpu bench hostile`: what it measures, what it judges, and that its attacks reach the server."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from hypergpu_fl.bench.attacks import ALL, ATTACKS, SIGN_FLIP
from hypergpu_fl.bench.hostile import HOSTILE, missed, rounds_of, run_hostile
from strategies.event_log import EventLog
from strategies.planning import Compression
from strategies.round.commands import CloseRound, Open
from strategies.round.events import Ended
from strategies.round.rules import Rules
from strategies.settings import Settings

KEPT = {
    "completed": True,
    "final_accuracy": 0.9,
    "honest7_accuracy": 0.905,
    "weight_share": 0.14,
    "fair_share": 0.1,
    "growth_mib": 200.0,
    "overtime_s": 4.0,
}


def test_a_row_that_keeps_its_bounds_has_missed_nothing() -> None:
    assert missed(KEPT) == [] and missed({**KEPT, "growth_mib": None}) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("completed", False),
        ("final_accuracy", 0.894),
        ("weight_share", 0.151),
        ("growth_mib", 257.0),
        ("overtime_s", 5.1),
    ],
)
def test_each_bound_that_is_missed_is_named(name: str, value: Any) -> None:
    assert missed({**KEPT, name: value}) == [name]


def test_each_round_of_a_log_has_the_deadline_that_it_was_opened_with(tmp_path: Path) -> None:
    log = EventLog(
        tmp_path / "log", Rules(Settings(cohort=1), 8, (Compression("raw", 1.0),), "random", "alike", "examples")
    )
    for deadline_s, ended_s in ((10.0, 12.5), (None, 99.0), (20.0, 3.0)):
        closed = CloseRound(1, 0.0, ended_s, (), (), 0, 0, 0, "", "")
        log.append(Ended(0.0), [Open(1, deadline_s), closed])
    log.close()
    found = [(each["ended_s"], each["deadline_s"]) for each in rounds_of(tmp_path / "log")]
    assert found == [(12.5, 10.0), (99.0, math.inf), (3.0, 20.0)] and not list(rounds_of(tmp_path / "none"))


@pytest.mark.no_cover
@pytest.mark.parametrize("name", ["hoarded", "more_ids"])
def test_hostile_nodes_that_hoard_or_multiply_own_no_round(name: str) -> None:
    (attack,) = [attack for attack in ATTACKS if attack.name == name]
    row, _ = run_hostile(seeds=[0], attacks=[attack], changes={"rounds": 12})
    assert row["completed"] and row["overtime_s"] == 0 and row["longest_round_s"] > 0 < row["honest7_longest_s"]
    assert row["weight_share"] <= row["largest_in_a_round"] and row["weight_share"] <= row["hostile_weight"] <= 1
    if name == "more_ids":
        assert row["hostile_weight"] == 0


def test_every_attack_has_a_name_of_its_own_and_a_point_of_the_threat_list() -> None:
    names = [attack.name for attack in (*ATTACKS, SIGN_FLIP)]
    assert len(set(names)) == len(names) and {attack.point for attack in ATTACKS} >= {1, 2, 4, 5, 6, 7, 8, 9}


def test_all_attacks_at_once_reach_the_server_and_the_run_completes() -> None:
    told: list[str] = []
    rows = run_hostile(seeds=[3], attacks=[ALL], changes={"rounds": 4}, progress=told.append)
    assert [row["seed"] for row in rows] == [3, None] and len(told) == 2
    row = rows[0]
    assert row["completed"] and 0 < row["final_accuracy"] <= 1 and 0 < row["honest7_accuracy"] <= 1
    assert row["weight_share"] < 1 and 0.1 <= row["fair_share"] < len(HOSTILE) and row["overtime_s"] == 0
    assert row["growth_mib"] is None or math.isfinite(row["growth_mib"])
