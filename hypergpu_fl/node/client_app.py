"""The ClientApp: says who it is, trains its share on the local GPU, and sends a small signed update.

On real machines Flower starts a process per message, so nothing heavy is imported before it is used.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from hypergpu_fl.config import Config, from_run_config, read_secrets, runs_root
from hypergpu_fl.errors import HyperGPUError, UsageError
from hypergpu_fl.runs import node_state_folder
from strategies import wire
from strategies.model.layout import Vector

if TYPE_CHECKING:
    import torch

    from hypergpu_fl.ledger.identity import NodeKey
    from hypergpu_fl.task import TrainContext

STATE_BYTES = 16 * 2**30  # for views and residuals of all runs on this node; the longest unused are removed

log = logging.getLogger(__name__)

app = ClientApp()


@app.query()
def hello(message: Message, context: Context) -> Message:
    """Answer who this node is: its share of the data, its device, its task, and the address it signs with.

    A node that cannot take part answers with the reason.
    """
    try:
        return _introduced(message, context)
    except HyperGPUError as error:
        log.warning("this node cannot take part: %s; %s", error.cause, error.remedy)
        unfit = ConfigRecord({wire.CAUSE: error.cause, wire.REMEDY: error.remedy})
        with contextlib.suppress(UsageError):  # a node without a share is named by its id
            unfit[wire.PARTITION] = _partition(context)
        return Message(RecordDict({wire.UNFIT: unfit}), reply_to=message)


def _introduced(message: Message, context: Context) -> Message:
    from hypergpu_fl.codec.kernels import compile_ahead
    from hypergpu_fl.network.hardware import describe_hardware
    from hypergpu_fl.node.local_task import local_task
    from hypergpu_fl.node.replies import hello_of
    from hypergpu_fl.task.trial import examples_of, try_task

    config, partition = _config(context), _partition(context)
    device, link = _device(config), _link(config, context)
    local = local_task(config)
    examples = examples_of(local.task, partition)
    try_task(local.task, local.model, partition, device=device, batch_size=config.training.batch_size)
    content = hello_of(
        partition,
        examples,
        identity=local.identity,
        device={wire.DEVICE: str(device), **describe_hardware()},
        link=link,
        key=_key(config, context),
        session=wire.invited_to(message.content),
        node_id=context.node_id,
    )
    compile_ahead()  # only after the probe, which measures milliseconds
    return Message(content, reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the planned steps from the model in ``message`` and reply with the compressed, signed change."""
    from hypergpu_fl.codec import (
        ResidualStore,
        ViewStore,
        apply,
        blob_of,
        encode_with_feedback,
        first_view,
    )
    from hypergpu_fl.node.local_task import local_task
    from hypergpu_fl.node.replies import reply_of
    from hypergpu_fl.task.trial import examples_of

    config, partition = _config(context), _partition(context)
    order = wire.Order.read(message.content)
    local = local_task(config)
    task, model, layout = local.task, local.model, local.layout

    store = (_state_folder(config, context), str(context.run_id), str(partition), layout.hash, layout.size, STATE_BYTES)
    views, residuals = ViewStore(*store), ResidualStore(*store)
    held = views.load() or first_view(local.first_weights(), local.buffers, layout)[0]
    received = apply(blob_of(message.content.array_records[wire.MODEL]), layout, held)
    base_P = received.model_P
    task.load(model, layout.restore(base_P, received.buffers or local.buffers))

    if order.receipt:
        _keep_receipts(order.receipt, _key(config, context).address, _state_folder(config, context) / "receipts")

    began_s = time.monotonic()
    result = task.train(model, partition, _train_context(order, config, context))
    trained = task.arrays(model)
    delta_P: Vector = layout.flatten(trained)
    delta_P -= base_P
    blob, residual_P = encode_with_feedback(
        order.codec,
        delta_P,
        residuals.load(order.ack),
        layout,
        layout.buffers(trained),
        base=order.base,
    )
    residuals.stage(order.round, residual_P)
    if received.view is not None:
        views.save(received.view)
    content = reply_of(
        order,
        result,
        blob,
        examples=examples_of(task, partition),
        # in simulation the simulated link determines the time
        compute_s=None if config.network.enable_simulation else time.monotonic() - began_s,
        link=_link(config, context, reply_bytes=len(blob)),
        key=_key(config, context),
    )
    return Message(content, reply_to=message)


def _train_context(order: wire.Order, config: Config, context: Context) -> TrainContext:
    from hypergpu_fl.node.local_task import task_folder
    from hypergpu_fl.task import TrainContext

    return TrainContext(
        steps=order.local_steps,
        batch_size=order.batch_size,
        seed=int(np.random.SeedSequence([order.seed, order.round]).generate_state(1)[0]),
        device=_device(config),
        folder=task_folder(_task_root(config, context), order.session, _partition(context), now_s=time.time()),
        round=order.round,
        progress=min(1.0, (order.round - 1) / config.training.rounds),
        node_config=dict(context.node_config),
    )


def _keep_receipts(text: str, address: str, folder: Path) -> None:
    """Store the receipts that came with an order. A receipt that proves nothing is only logged."""
    from hypergpu_fl.ledger.receipts import keep_receipts

    for error in keep_receipts(text, node=address, folder=folder):
        log.warning("a receipt was refused: %s", error.cause)


def _config(context: Context) -> Config:
    config = from_run_config(context.run_config, os.environ)
    nodes = context.node_config.get("num-partitions")
    if config.network.enable_simulation and nodes and int(nodes) != config.training.num_nodes:
        training = config.training.model_copy(update={"num_nodes": int(nodes)})  # Flower decides how many there are
        return config.model_copy(update={"training": training})
    return config


def _link(config: Config, context: Context, *, reply_bytes: int = 0) -> dict[str, MetricRecord]:
    """The link record for a reply of ``reply_bytes``; empty in simulation, where there is no link to probe."""
    if config.network.enable_simulation:
        return {}
    from hypergpu_fl.network.link_report import report_link

    found = report_link(context.node_config, context.state, reply_bytes=reply_bytes)
    return {wire.LINK: found} if found else {}


def _partition(context: Context) -> int:
    try:
        return int(context.node_config[wire.PARTITION])
    except (KeyError, ValueError) as error:
        raise UsageError(
            "this node does not know which share of the data is its own",
            "start the SuperNode with --node-config 'partition-id=0 num-partitions=N'",
        ) from error


def _device(config: Config) -> torch.device:
    from hypergpu_fl.task.device import resolve_device

    return resolve_device(config.system.device)


def _key(config: Config, context: Context) -> NodeKey:
    """The node's key: derived in simulation, else from its keystore file, else from the environment (as in CI)."""
    from hypergpu_fl.ledger.identity import NodeKey, derive_simulated_key

    if config.network.enable_simulation:
        return derive_simulated_key(config.training.seed, _partition(context))
    if path := context.node_config.get("keystore"):
        return _opened(Path(str(path)))
    if (secret := read_secrets().node_key) is not None:
        return NodeKey.from_hex(secret.get_secret_value())
    raise UsageError(
        "this node has no key to sign with",
        "start the SuperNode with --node-config 'keystore=\"FILE\"', or set HYPERGPU_NODE_KEY",
    )


@lru_cache(maxsize=1)  # opening takes half a second, and a message may need the key twice
def _opened(keystore: Path) -> NodeKey:
    from hypergpu_fl.ledger.identity import load_keystore

    password = read_secrets().keystore_password
    return load_keystore(keystore, password.get_secret_value() if password else "")


def _task_root(config: Config, context: Context) -> Path:
    """Where the task's own folders lie. A resumed run, which has a new id of Flower's, finds them again."""
    folder = _state_folder(config, context)
    return folder if context.node_config.get("state-dir") else folder.parent


def _state_folder(config: Config, context: Context) -> Path:
    """Where this node keeps what must outlive a message."""
    if folder := context.node_config.get("state-dir"):
        return Path(str(folder))
    simulated_as = config.system.run_name if config.network.enable_simulation else ""
    return node_state_folder(runs_root(config.system), context.run_id, simulated_as)
