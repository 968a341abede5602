from __future__ import annotations

import json
from pathlib import Path

import pytest

from hypergpu_fl.bench.race import Course, Point
from hypergpu_fl.bench.standings import Row, Standings, table
from hypergpu_fl.errors import UsageError

OPTIONS = {"alpha": 0.3, "nodes": 10}


def row(policy: str, seed: int, time_s: float | None) -> Row:
    return {
        "policy": policy,
        "scenario": "independent",
        "links": "silo",
        "seed": seed,
        "target": 0.9,
        "time_to_target_s": time_s,
        "final_accuracy": 0.91,
        "slow_accuracy": 0.9,
        "rounds": 2,
        "bytes_up": 10**9,
        "bytes_down": 2 * 10**9,
        "max_abs_drift": 0.001,
    }


def course() -> Course:
    return Course([Point(float(i), 0.5 + i / 10, 0.5, i, i, i) for i in range(3)], max_abs_drift=0.25)


def test_what_was_entered_is_there_again_after_an_interruption(tmp_path: Path) -> None:
    out = tmp_path / "deeper" / "tta.json"
    Standings.open(out, OPTIONS).enter(row("oort", 0, 12.0), course())
    again = Standings.open(out, OPTIONS)
    assert again.course("oort", "independent", 0) == course()
    assert again.course("oort", "independent", 1) is None
    assert json.loads(out.read_text()) == [row("oort", 0, 12.0)]


def test_results_of_other_options_are_not_mixed_in(tmp_path: Path) -> None:
    out = tmp_path / "tta.json"
    Standings.open(out, OPTIONS).enter(row("oort", 0, 12.0), course())
    with pytest.raises(UsageError, match="made with another alpha"):
        Standings.open(out, {**OPTIONS, "alpha": 0.1})


@pytest.mark.parametrize("damage", ["", "{}", '{"options": {}, "courses": [{}]}', "[1]"])
def test_damaged_standings_are_refused_in_one_line(tmp_path: Path, damage: str) -> None:
    (tmp_path / "tta.curves.json").write_text(damage)
    with pytest.raises(UsageError, match="cannot be read"):
        Standings.open(tmp_path / "tta.json", OPTIONS)


def test_rows_without_their_courses_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "tta.json").write_text("[]")
    with pytest.raises(UsageError, match="exists"):
        Standings.open(tmp_path / "tta.json", OPTIONS)


def test_the_table_ranks_by_median_and_counts_who_never_arrived() -> None:
    rows = [row("oort", 0, 50.0), row("oort", 1, None), row("oort", 2, None)]
    rows += [row("ours", 0, 10.0), row("ours", 1, 1234.4), row("ours", 2, 11.0)]
    lines = table(rows).splitlines()
    assert lines[2].startswith("| independent | ours | 11 s | 10 s to 1,234 s | 3 of 3 | 0.9100 ")
    assert lines[3].startswith("| independent | oort | never | 50 s to never | 1 of 3 |")


def test_publishing_draws_a_picture_and_a_table(tmp_path: Path) -> None:
    out = tmp_path / "tta.json"
    standings = Standings.open(out, OPTIONS)
    standings.enter(row("oort", 0, 12.0), course())
    standings.publish()
    assert (tmp_path / "tta-independent.png").read_bytes().startswith(b"\x89PNG")
    assert "| independent | oort |" in (tmp_path / "tta.md").read_text()
