"""What Flower starts for a message answers by itself where no worker can be kept."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from flwr.app import Message, RecordDict

from hypergpu_fl.bench.in_process import InProcessGrid
from hypergpu_fl.config import load, to_run_config
from hypergpu_fl.node.client_entry import app
from strategies import wire


def test_a_node_that_can_keep_no_worker_answers_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / f"hypergpu-{os.getuid()}").write_text("not a folder")
    monkeypatch.setenv("HYPERGPU_NODE_KEY", "0x" + "11" * 32)
    config = load(None, {"network.enable_simulation": "false"}, {}).config
    grid = InProcessGrid(app, 1, to_run_config(config), state_dir=tmp_path)
    (reply,) = grid.send_and_receive([Message(RecordDict(), 1, "query")])
    assert wire.numbers(reply.content, wire.HELLO)[wire.EXAMPLES] > 0
    assert "no worker can be kept" in caplog.text
