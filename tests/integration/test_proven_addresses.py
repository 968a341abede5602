"""An address that a node does not prove at the door: the real server, and real nodes, in this process."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from flwr.app import Message

from hypergpu_fl.bench.in_process import InProcessGrid
from hypergpu_fl.config import Config, to_run_config
from hypergpu_fl.ledger.identity import derive_simulated_key
from hypergpu_fl.node.client_app import app
from hypergpu_fl.server.server_app import run
from strategies import wire

NODES = 4


class Claiming(InProcessGrid):
    """Node 2 claims the address of node 4, which never comes; node 3's proof is sent again by node 1."""

    def get_node_ids(self) -> Iterable[int]:
        return [node_id for node_id in super().get_node_ids() if node_id != 4]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = list(super().pull_messages(message_ids))
        hellos = {m.metadata.src_node_id: m.content for m in replies if m.has_content() and wire.HELLO in m.content}
        if hellos:
            hellos[2].config_records[wire.DEVICE][wire.ADDRESS] = derive_simulated_key(0, 3).address
            hellos[1].config_records[wire.DEVICE][wire.ADDRESS] = derive_simulated_key(0, 2).address
            hellos[1][wire.ENROLMENT] = hellos[3][wire.ENROLMENT]
        return replies


def test_nobody_enrols_with_an_address_that_its_key_did_not_sign_for_this_connection(tmp_path: Path) -> None:
    config = Config.model_validate(
        {
            "training": {"num_nodes": NODES, "rounds": 1, "seed": 0},
            "blockchain": {"enabled": False},
            "system": {"runs_dir": str(tmp_path), "run_name": "run"},
        }
    )
    (tmp_path / "run").mkdir()
    run(config, Claiming(app, NODES, to_run_config(config), state_dir=tmp_path / "nodes"), tmp_path / "run")
    unfit = json.loads((tmp_path / "run" / "report.json").read_text())["unfit"]
    assert sorted(unfit) == ["1", "2"] and all("signs with another key" in why for why in unfit.values())
