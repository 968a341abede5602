"""Asks each node once a round and logs it; fails, dies or lingers if the run's name says so."""

import json
import os
import time

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp
from loguru import logger

from hypergpu_fl import logs
from hypergpu_fl.config import from_run_config, runs_root
from hypergpu_fl.runs import open_run_folder

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = from_run_config(context.run_config)
    folder = open_run_folder(runs_root(config.system), config.system.run_name)
    logs.configure(config.system, folder)
    log = logger.patch(lambda record: record.update(name="hypergpu_fl.server.server_app"))
    while len(nodes := list(grid.get_node_ids())) < config.training.num_nodes:
        time.sleep(0.1)
    for round in range(1, config.training.rounds + 1):
        asked = [Message(RecordDict({"ask": ConfigRecord({"round": round})}), node, "query") for node in nodes]
        log.info("round {}: {} arrived", round, sum(not reply.has_error() for reply in grid.send_and_receive(asked)))
        if "fail" in config.system.run_name:
            raise ValueError("the tiny app was told to fail")
        if "die" in config.system.run_name:
            os._exit(1)
        if "linger" in config.system.run_name:
            time.sleep(600)
    (folder / "report.json").write_text(json.dumps({"rounds": config.training.rounds, "accuracy": 0.5}))
