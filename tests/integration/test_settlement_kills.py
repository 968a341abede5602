"""Rounds survive SIGKILL: none lost, none committed or paid twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from npm_tools import contracts

__all__ = ["contracts"]


@pytest.mark.chain
def test_kills_at_random_points_lose_and_double_nothing(contracts: Path) -> None:
    kills = int(os.environ.get("HYPERGPU_TEST_KILLS", "50"))
    script = Path(__file__).resolve().parents[1] / "kill_campaign.py"
    result = subprocess.run([sys.executable, script, "--kills", str(kills)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    audit = json.loads(result.stdout)
    assert audit["kills"] == kills
    assert [audit[name] for name in ("rounds_lost", "rounds_doubled", "transactions_wasted")] == [0, 0, 0]
    assert (audit["wei_overfunded"], audit["wei_overpaid"]) == (0, 0)
