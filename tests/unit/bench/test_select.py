"""The select bench runs what the strategy runs; nothing here asserts how long it took."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hypergpu_fl.bench.select import population, run_select


@pytest.mark.parametrize("policy_name", ["network_aware", "oort"])
def test_a_row_a_fleet_size(policy_name: str) -> None:
    lines: list[str] = []
    rows = run_select(nodes=(20, 200), cohort=5, repeats=3, policy_name=policy_name, progress=lines.append)
    assert [row["nodes"] for row in rows] == [20, 200] and all(row["seconds"] > 0 for row in rows)
    assert json.loads(json.dumps(rows)) == rows and len(lines) == 2


def test_the_fleet_is_one_in_the_middle_of_a_run() -> None:
    fleet = population(2000, np.random.default_rng(0))
    assert fleet.uplink_bps.std() > 0 and 0.05 < fleet.at_work.mean() < 0.15 < 0.85 < fleet.online.mean() < 0.95
