"""A deployed run that waits for its nodes says for how many."""

from __future__ import annotations

from pathlib import Path

import pytest
from flwr.clientapp import ClientApp

from hypergpu_fl.bench.in_process import InProcessGrid
from hypergpu_fl.errors import NetworkError
from hypergpu_fl.server import waiting_for_nodes


def test_a_run_says_how_many_nodes_it_waits_for_once_and_then_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting_for_nodes, "NODES_WAIT_S", 1.0)
    said: list[str] = []
    sink = waiting_for_nodes.logger.add(said.append, format="{message}")
    try:
        with pytest.raises(NetworkError, match="2 of 3 nodes connected within 1 s"):
            waiting_for_nodes.wait_for_nodes(InProcessGrid(ClientApp(), 2, {}, state_dir=tmp_path), 3, simulated=False)
    finally:
        waiting_for_nodes.logger.remove(sink)
    assert said == ["2 of 3 nodes are connected; the rest have 1 s to come\n"]
