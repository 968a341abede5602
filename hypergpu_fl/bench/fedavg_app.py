"""ServerApp of the peer: Flower's own FedAvg and Grid with our ClientApp, where every message is a whole model.

It differs from a plain Flower app only in how arrays are wrapped: as float32 in one array of bytes, so that the same
ClientApp serves both sides of the comparison.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from loguru import logger

from hypergpu_fl import logs
from hypergpu_fl.codec.payload import CodecPayload
from hypergpu_fl.config import from_run_config, runs_root
from hypergpu_fl.runs import open_run_folder
from hypergpu_fl.server.report import write_json
from hypergpu_fl.server.waiting_for_nodes import wait_for_nodes
from hypergpu_fl.task import fresh_model, load_task
from hypergpu_fl.task.device import resolve_device
from strategies import wire
from strategies.model.layout import Layout
from strategies.round.choosing import LONGEST_TTL_S

app = ServerApp()


class AccurateEnough(Exception):
    """The model is accurate enough; Flower's loop has no other way out."""


class PlainFedAvg(FedAvg):
    """Flower's FedAvg on our records: each node trains the baseline's steps from the whole model, uncompressed."""

    def __init__(self, layout: Layout, order: wire.Order, nodes: int) -> None:
        super().__init__(fraction_evaluate=0.0, min_train_nodes=nodes, min_available_nodes=nodes)
        self._layout, self._template = layout, order
        self._payload = CodecPayload(layout)
        self.bytes_up = self.bytes_down = 0

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """See ``FedAvg.configure_train``."""
        whole = {name: array.numpy() for name, array in arrays.items()}
        self._model_P, self._buffers = self._layout.flatten(whole), self._layout.buffers(whole)
        self._payload.publish(server_round, self._model_P, self._buffers)
        sent = self._payload.model_for("", -1, "raw")
        orders = []
        for message in super().configure_train(server_round, arrays, config, grid):
            order = replace(self._template, round=server_round, base=server_round)
            node_id = message.metadata.dst_node_id
            orders.append(order.message(node_id, sent, number=server_round, ttl_s=LONGEST_TTL_S))
            self.bytes_down += len(sent)
        return orders

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """See ``FedAvg.aggregate_train``."""
        return super().aggregate_train(server_round, [self._unwrapped(reply) for reply in replies])

    def _unwrapped(self, reply: Message) -> Message:
        if reply.has_error():
            return reply
        blob = reply.content.array_records[wire.UPDATE][wire.BLOB].numpy().tobytes()
        self.bytes_up += len(blob)
        update = self._payload.decode(blob)
        model_P = self._model_P.copy()
        update.add_to(model_P, 1.0)
        whole = self._layout.restore(model_P, {**self._buffers, **update.buffers})
        reply.content = RecordDict(
            {
                self.arrayrecord_key: ArrayRecord({name: Array(array) for name, array in whole.items()}),
                wire.METRICS: reply.content.metric_records[wire.METRICS],
            }
        )
        return reply


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train with Flower's strategy until the target accuracy is reached, and write a report."""
    config = from_run_config(context.run_config)
    training = config.training
    folder = open_run_folder(runs_root(config.system, dict(os.environ)), config.system.run_name)
    logs.configure(config.system, folder)
    wait_for_nodes(grid, training.num_nodes, simulated=False)
    task = load_task(training, config.system, simulated=config.network.enable_simulation)
    device = resolve_device(config.system.device)
    model = fresh_model(task, training.seed)
    layout = Layout.of(task.arrays(model))
    most = max(task.examples(partition) for partition in range(training.num_nodes))
    order = wire.Order(
        round=0,
        base=0,
        base_model=bytes(32),
        local_steps=training.fixed_steps or -(-most // training.batch_size) * max(1, training.epochs),
        batch_size=training.batch_size,
        codec="raw",
        seed=training.seed,
        session=bytes(32),
        ack=-1,
    )
    strategy = PlainFedAvg(layout, order, training.num_nodes)
    history: list[dict[str, Any]] = []
    began_s = time.monotonic()

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        if server_round == 0:
            return None
        task.load(model, {name: array.numpy() for name, array in arrays.items()})
        result = task.evaluate(model, device=device)
        entry = {"round": server_round, "seconds": time.monotonic() - began_s, "accuracy": result.accuracy}
        history.append({**entry, "bytes_up": strategy.bytes_up, "bytes_down": strategy.bytes_down})
        logger.info("FedAvg round {round} accuracy {accuracy:.3f} {seconds:.1f} s", **entry)
        if training.goal is not None and training.goal.is_reached(result.named):
            raise AccurateEnough
        return MetricRecord({**result.named})

    fresh = ArrayRecord({name: Array(array) for name, array in task.arrays(model).items()})
    try:
        strategy.start(grid, fresh, num_rounds=training.rounds, timeout=3600.0, evaluate_fn=evaluate)
    except AccurateEnough:
        logger.info("target {} reached", training.goal)
    write_json(folder / "report.json", {"strategy": "fedavg", "history": history})
